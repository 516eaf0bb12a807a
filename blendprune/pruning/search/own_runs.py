"""The pruned model's own forward, tried before anyone else runs it."""

import functools
from typing import NamedTuple

from ...errors import PruningError, error_line
from ..architectures import run_own_inference
from ..graph.inputs import tiny_inputs
from ..scores import try_training
from ..tracing.hooks import evaluating, forward_hooks


class _Failure(NamedTuple):
    """Why a forward broke off.

    Attributes:
        error (Exception): what it raised.
        layer (str): name of the module without children that began last.
    """

    error: Exception
    layer: str


def check_own_runs(model, dense, inputs, batches=()):
    """Run the model's own inference once and, with data, its training.

    Args:
        model (nn.Module): pruned, outside the prunable view; it stays as it is.
        dense (Snapshot): of the model before the pruning.
        inputs (list[dict]): detectron2's format.
        batches (Sequence[list[dict]]): labelled images; each is trained on, by its first image.

    Returns:
        list[str]: what could not be tried, because the dense model fails, too; one sentence each.

    Raises:
        PruningError: the pruned model fails where the dense one does not.
    """
    runs = {"inference": lambda: _infer(model, inputs)}
    for number, batch in enumerate(batches):
        name = f"training on batch {number}" if number else "training"
        runs[name] = functools.partial(try_training, model, batch[:1])
    failures = _failures(model, runs)
    if not failures:
        return []
    with dense.restored():
        before = _failures(model, {name: runs[name] for name in failures})
    for name, failure in failures.items():
        # The losses of a model that was just pruned need not be finite.
        if isinstance(failure.error, FloatingPointError):
            continue
        if name not in before or type(before[name].error) is not type(failure.error):
            raise PruningError(
                f"the pruned {type(model).__name__} does not run in {name}: "
                f"{failure.layer or 'it'} fails ({error_line(failure.error)}), and the dense model "
                "does not; name the layers that feed it in ignored_layers"
            ) from failure.error
    return [
        f"{name} was not tried after the pruning: the dense model fails, too "
        f"({error_line(failure.error)})"
        for name, failure in before.items()
    ]


def _infer(model, inputs):
    with evaluating(model):
        try:
            run_own_inference(model, tiny_inputs(model, inputs))
        except Exception:
            # The images may be too small.
            run_own_inference(model, inputs)


def _failures(model, runs):
    names = {module: name for name, module in model.named_modules() if not module._modules}
    failures, last = {}, ""

    def begin(layer, inputs):
        nonlocal last
        last = names[layer]

    with forward_hooks(names, begin, before=True):
        for name, run in runs.items():
            try:
                run()
            except Exception as error:
                failures[name] = _Failure(error, last)
    return failures
