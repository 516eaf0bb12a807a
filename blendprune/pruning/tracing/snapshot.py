"""A model as it was: to go back to after a failure, and after a training forward."""

import contextlib
from collections.abc import MutableMapping

from .layer_kinds import is_norm


class Snapshot:
    """Everything that pruning changes, without a copy of the weights.

    Torch-Pruning replaces parameters and buffers and never writes into the old ones. References to
    the old ones, module by module, are therefore enough to go back.

    Args:
        model (nn.Module): outside the prunable view.
    """

    def __init__(self, model):
        self._model = model
        self._state = [(module, type(module), _shallow(vars(module))) for module in model.modules()]
        self._grads = [(p, p.grad, p.requires_grad) for p in model.parameters()]

    def restore(self):
        """Undo every change since the snapshot."""
        for module, kind, state in self._state:
            module.__class__ = kind
            vars(module).clear()
            vars(module).update(_shallow(state))
        for p, grad, requires_grad in self._grads:
            p.requires_grad_(requires_grad)
            p.grad = grad

    @contextlib.contextmanager
    def restored(self):
        """The model as it was, until the block ends; then again as it is now."""
        now = Snapshot(self._model)
        try:
            self.restore()
            yield
        finally:
            now.restore()


def _shallow(state):
    tables = ("_parameters", "_buffers", "_modules")
    return {
        key: value.copy() if key in tables and isinstance(value, MutableMapping) else value
        for key, value in state.items()
    }


@contextlib.contextmanager
def keeping_buffers(model):
    """Undo on leaving what the forwards of a model wrote into its buffers.

    Those of norms are left alone, and those that have another shape afterwards: they are pruned.

    Args:
        model (nn.Module): outside the prunable view.
    """
    values = [
        (module, name, buffer, buffer.detach().clone())
        for module in model.modules()
        if not is_norm(module)
        for name, buffer in module._buffers.items()
        if buffer is not None
    ]
    try:
        yield
    finally:
        for module, name, buffer, value in values:
            now = module._buffers.get(name)
            if now is not None and now.shape == value.shape:
                buffer.data.copy_(value)
                module._buffers[name] = buffer


@contextlib.contextmanager
def keeping_state(model, parameters=False):
    """Undo on leaving what a training forward does to a model, and changes of its modes and flags.

    Modes, buffers, and counters that modules keep as plain numbers (FCOS's moving average) are
    restored.

    Args:
        model (nn.Module): inside the prunable view or outside.
        parameters (bool): restore them, too: some models average them in their forward.
    """
    state = ForwardState(model, parameters)
    try:
        yield
    finally:
        state.restore()


class ForwardState:
    """What a forward may change of a model: plain numbers of its modules, and tensors written into.

    Args:
        model (nn.Module): inside the prunable view or outside.
        parameters (bool): with its parameters.
    """

    def __init__(self, model, parameters=False):
        self._numbers = [
            (vars(module), {k: v for k, v in vars(module).items() if type(v) in (bool, int, float)})
            for module in model.modules()
        ]
        tensors = [*model.buffers(), *(model.parameters() if parameters else ())]
        self._tensors = [[x, x.detach().clone(), _version(x)] for x in tensors]

    def restore(self):
        """Give the model its state back."""
        self._restore_numbers()
        for tensor, value, _ in self._tensors:
            # Not a change to autograd: a graph that saved the tensor stays whole.
            tensor.data.copy_(value)

    def rewind(self):
        """The same in less time, between forwards: tensors whose version says that they changed."""
        self._restore_numbers()
        for entry in self._tensors:
            tensor, value, version = entry
            if version is None or version != _version(tensor):
                tensor.data.copy_(value)
                entry[2] = _version(tensor)

    def _restore_numbers(self):
        for own, numbers in self._numbers:
            own.update(numbers)


def _version(tensor):
    """How often a tensor was written into; None for one that does not count it."""
    return None if tensor.is_inference() else tensor._version
