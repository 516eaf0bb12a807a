"""Weights that are computed from other parameters: folded into one, and put back.

``weight_norm`` and ``spectral_norm`` of torch (as parametrizations and as hooks) and the masks of
``torch.nn.utils.prune`` compute a layer's weight at each call. Inside the prunable view the layer
has that weight as its only one. On leaving, the parameters are found again from the weight, pruned
or refit as it may be: they compute the same weight as before. Spectral norm keeps it in eval mode;
the next training step divides it by its own norm, as always.
"""

import contextlib

import torch
from torch import nn
from torch.nn.utils import parametrizations, parametrize
from torch.nn.utils.prune import BasePruningMethod
from torch.nn.utils.spectral_norm import SpectralNorm
from torch.nn.utils.weight_norm import WeightNorm

from .layer_kinds import is_prunable_layer


@contextlib.contextmanager
def folded_weights(model):
    """Show the layers of a model with the weights that they compute, until the block ends.

    Args:
        model (nn.Module): changed in place while the block runs.
    """
    folds = []
    try:
        for module in list(model.modules()):
            fold = _fold_of(module)
            if fold is not None:
                fold.enter()
                folds.append(fold)
        yield
    finally:
        for fold in reversed(folds):
            fold.leave()


def _fold_of(module):
    if not is_prunable_layer(module):
        return None
    if parametrize.is_parametrized(module):
        steps = module.parametrizations
        known = list(steps) == ["weight"] and len(steps["weight"]) == 1
        if known and isinstance(steps["weight"][0], _PARAMETRIZATIONS):
            return _FoldedParametrization(module)
        return None
    hooks = [hook for hook in module._forward_pre_hooks.values() if isinstance(hook, _HOOKS)]
    names = {getattr(hook, "name", getattr(hook, "_tensor_name", None)) for hook in hooks}
    return _FoldedHook(module, hooks[0]) if len(hooks) == 1 and names == {"weight"} else None


_PARAMETRIZATIONS = (parametrizations._WeightNorm, parametrizations._SpectralNorm)
_HOOKS = (WeightNorm, SpectralNorm, BasePruningMethod)


class _Fold:
    """One layer whose weight is folded.

    Args:
        module (nn.Module): the layer.
    """

    def __init__(self, module):
        self.module = module

    def enter(self):
        """Show the weight as the only parameter."""
        with torch.no_grad():
            self.weight = self.computed()
        self.tables = dict(self.module._parameters), dict(self.module._buffers)
        self.hide()
        self.module._parameters["weight"] = nn.Parameter(self.weight.clone())

    def leave(self):
        """Find the parameters of the weight as it is now."""
        weight = self.module._parameters.pop("weight").detach()
        changed = weight.shape != self.weight.shape or not torch.equal(weight, self.weight)
        self.show(weight if changed else None)


class _FoldedParametrization(_Fold):
    def computed(self):
        self.steps = self.module.parametrizations["weight"]
        training, self.steps[0].training = self.steps[0].training, False
        weight = self.steps()
        self.steps[0].training = training
        return weight

    def hide(self):
        self.parametrized = type(self.module)
        self.module.__class__ = self.parametrized.__bases__[0]
        self.hidden = self.module._modules.pop("parametrizations")

    def show(self, weight):
        self.module.__class__ = self.parametrized
        self.module._modules["parametrizations"] = self.hidden
        if weight is None:
            return
        step = self.steps[0]
        if hasattr(step, "right_inverse") and len(self.steps._parameters) == 2:
            originals = dict(zip(("original0", "original1"), _length_and_direction(weight, step)))
        else:
            originals = {"original": weight}
            step._u, step._v = _singular_vectors(weight, step.dim)
        for name, value in originals.items():
            self.steps._parameters[name] = nn.Parameter(value)


class _FoldedHook(_Fold):
    def __init__(self, module, hook):
        super().__init__(module)
        self.hook = hook

    def computed(self):
        if isinstance(self.hook, BasePruningMethod):
            return self.hook.apply_mask(self.module)
        if isinstance(self.hook, SpectralNorm):
            return self.hook.compute_weight(self.module, do_power_iteration=False)
        return self.hook.compute_weight(self.module)

    def hide(self):
        module = self.module
        self.hooks = dict(module._forward_pre_hooks)
        for number, hook in self.hooks.items():
            if hook is self.hook:
                del module._forward_pre_hooks[number]
        for name in _OWN[self._kind()]:
            module._parameters.pop(name, None)
            module._buffers.pop(name, None)
        vars(module).pop("weight")

    def show(self, weight):
        module = self.module
        module._forward_pre_hooks.clear()
        module._forward_pre_hooks.update(self.hooks)
        found = {} if weight is None else self._found(weight)
        for table, before, made in (
            (module._parameters, self.tables[0], nn.Parameter),
            (module._buffers, self.tables[1], lambda value: value),
        ):
            # In the order of before: state_dict() lists the same keys in the same order.
            now = {
                name: made(found[name]) if name in found else table.get(name, value)
                for name, value in before.items()
            }
            table.clear()
            table.update(now)
        # Each call computes it again.
        module.weight = self.computed().detach()

    def _kind(self):
        return next(kind for kind in _HOOKS if isinstance(self.hook, kind))

    def _found(self, weight):
        if isinstance(self.hook, WeightNorm):
            return dict(zip(("weight_g", "weight_v"), _length_and_direction(weight, self.hook)))
        if isinstance(self.hook, SpectralNorm):
            u, v = _singular_vectors(weight, self.hook.dim)
            return {"weight_orig": weight, "weight_u": u, "weight_v": v}
        mask = self.tables[1]["weight_mask"]
        return {"weight_orig": weight, "weight_mask": (weight != 0).to(mask.dtype)}


_OWN = {
    WeightNorm: ("weight_g", "weight_v"),
    SpectralNorm: ("weight_orig", "weight_u", "weight_v"),
    BasePruningMethod: ("weight_orig", "weight_mask"),
}


def _length_and_direction(weight, norm):
    """The two parameters of weight norm; a filter of zeros has any direction."""
    length = torch.norm_except_dim(weight, 2, norm.dim)
    return length, torch.where(length == 0, torch.ones_like(weight), weight)


def _singular_vectors(weight, dim):
    """Vectors u, v with u·Wv = 1, so that dividing by that changes nothing until they move."""
    matrix = weight.movedim(dim, 0).flatten(1)
    u, sizes, v = torch.linalg.svd(matrix, full_matrices=False)
    return u[:, 0].clone(), v[0] / sizes[0].clamp(min=1e-12)
