"""A model as it was, for when a cut fails."""

from collections.abc import MutableMapping


class Snapshot:
    """Everything that a cut changes, without copying weights.

    Torch-Pruning puts new Parameters and buffers in place of the old, and never writes into them;
    so references to the old ones, module by module, are enough to go back.

    Args:
        model (nn.Module): outside the prunable view.
    """

    def __init__(self, model):
        self._state = [(module, type(module), _shallow(vars(module))) for module in model.modules()]
        self._grads = [(p, p.grad, p.requires_grad) for p in model.parameters()]

    def restore(self):
        """Make the model what it was."""
        for module, kind, state in self._state:
            module.__class__ = kind
            vars(module).clear()
            vars(module).update(_shallow(state))
        for p, grad, requires_grad in self._grads:
            p.requires_grad_(requires_grad)
            p.grad = grad


def _shallow(state):
    tables = ("_parameters", "_buffers", "_modules")
    return {
        key: value.copy() if key in tables and isinstance(value, MutableMapping) else value
        for key, value in state.items()
    }
