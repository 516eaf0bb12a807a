"""Proof of the folded form: from what a layer got before, it gives what it gave before."""

import torch

from ..errors import DeployError
from ..pruning.graph.comparison import Recorder, as_recorded, distance, maps_of
from ..pruning.tracing.hooks import exact_float32, forward_hooks
from ..pruning.tracing.layer_kinds import is_prunable_layer
from ..pruning.tracing.snapshot import Snapshot

# Relative to the largest output of a layer: rounding is far below, a norm that lacks far above.
_TOLERANCE = 1e-3
# Relative size of what stands for rounding, and how much more a difference must be.
_NOISE, _ABOVE_NOISE = 1e-6, 100


class FoldingProof:
    """What a model gives before its norms are folded, to compare with what it gives afterwards.

    In the second run every layer gives what it gave in the first one, once it is compared. So
    rounding does not add up, and all decisions (which boxes NMS keeps) are the same.

    Args:
        model (nn.Module): to be folded.
        pairs (list[NormPair]): to be folded. A folded conv is compared where its norm ends.
        run (Callable): runs the model, in all ways that inference has.
    """

    def __init__(self, model, pairs, run):
        folded = {pair.conv for pair in pairs}
        self._norms = {pair.norm for pair in pairs}
        self._layers = [
            module
            for module in model.modules()
            if module in self._norms or (is_prunable_layer(module) and module not in folded)
        ]
        self._names = {module: name for name, module in model.named_modules()}
        self._unfolded, self._run = Snapshot(model), run
        self._before = Recorder(model, self._layers)(run)

    def check(self):
        """Compare.

        Raises:
            DeployError: a layer gives something else.
        """
        found = self._differences()
        wrong = [i for i, (_, difference) in enumerate(found) if difference > _TOLERANCE]
        if wrong:
            # What moves as much when the inputs of norms are rounded anew says nothing.
            with self._unfolded.restored(), forward_hooks(self._norms, _rounded, before=True):
                noise = self._differences()
            wrong = [
                i for i in wrong if i >= len(noise) or not found[i][1] <= _ABOVE_NOISE * noise[i][1]
            ]
        if wrong:
            where = self._names.get(found[wrong[0]][0], "the output")
            raise DeployError(
                f"without its batch norms, {where} differs: code of the model reads a norm or a "
                "conv that was folded; replace it by a class of your own, which is left alone"
            )

    def _differences(self):
        """Each layer that runs, in order, with the distance to what it gave before; then None."""
        expected, found = zip(self._before.outputs, self._before.factors), []

        def compare(layer, inputs, output):
            if not isinstance(output, torch.Tensor):
                return None
            (known, before), factor = next(expected, ((None, None), None))
            if known is not layer:
                found.append((layer, float("inf")))
                raise _OtherPath
            found.append((layer, distance(before, as_recorded(layer, output, factor))))
            return before.clone()

        with exact_float32(), forward_hooks(self._layers, compare):
            try:
                returned = list(maps_of(self._run()))
            except _OtherPath:
                return found
            except Exception:
                if self._before.error is None:
                    found.append((None, float("inf")))
                return found
        pairs = zip(self._before.returned, returned)
        return [*found, (None, max((distance(a, b) for a, b in pairs), default=0.0))]


class _OtherPath(Exception):
    """Another layer runs than before."""


def _rounded(norm, inputs):
    """Round what a conv gives to its norm, which may enlarge the difference."""
    [x] = inputs
    random = torch.Generator().manual_seed(0)
    return x * (1 + _NOISE * torch.randn(x.shape, generator=random).to(x))
