"""Proof of the deployed form: the layers give what they gave before."""

import torch

from ..errors import DeployError, error_line
from ..pruning.graph.comparison import Recorder, first_difference
from ..pruning.tracing.hooks import forward_hooks
from ..pruning.tracing.layer_kinds import is_prunable_layer
from ..pruning.tracing.snapshot import Snapshot

# Relative size of what stands for rounding.
_NOISE = 1e-6


class FoldingProof:
    """What a model gives before its norms are folded, to compare with what it gives afterwards.

    Args:
        model (nn.Module): to be folded.
        pairs (list[NormPair]): to be folded. A folded conv is compared where its norm ends.
        run (Callable): runs the model, in all ways that inference has.
    """

    def __init__(self, model, pairs, run):
        folded = {pair.conv for pair in pairs}
        self._norms = {pair.norm for pair in pairs}
        layers = [
            module
            for module in model.modules()
            if module in self._norms or (is_prunable_layer(module) and module not in folded)
        ]
        self._names = {module: name for name, module in model.named_modules()}
        self._record, self._run = Recorder(model, layers), run
        self._unfolded = Snapshot(model)
        self._before = self._record(run)

    def check(self):
        """Compare.

        Raises:
            DeployError: a layer gives something else.
        """
        after = self._record(self._run, like=self._before)
        found = first_difference(self._before, after, {})
        if found is not None:
            # What moves as much when every layer is rounded anew says nothing.
            with self._unfolded.restored(), forward_hooks(self._norms, _rounded, before=True):
                rounded = self._record(self._run, like=self._before, noise=True)
            found = first_difference(self._before, after, {}, rounded)
        if found is None:
            return
        where = self._names.get(found.layer, "the output")
        what = "differs" if found.error is None else f"fails ({error_line(found.error)})"
        raise DeployError(
            f"without its batch norms, {where} {what}: code of the model reads a norm that was "
            "folded; replace that norm or its conv by a class of your own, which is left alone"
        )


def _rounded(norm, inputs):
    """Round what a conv gives to its norm, which may enlarge the difference."""
    [x] = inputs
    random = torch.Generator().manual_seed(0)
    return x * (1 + _NOISE * torch.randn(x.shape, generator=random).to(x))
