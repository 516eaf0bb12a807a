"""``BlendMask`` of AdelaiDet or this package: MODEL.FINETUNE, MODEL.PRUNE, and the early exit.

Replaced: ``__init__``, because upstream requires three image channels
(``pixel_mean.view(3, 1, 1)``) and its normalizer is a lambda, which cannot be pickled.
Extended: ``forward``, which returns the raw head outputs under ``model_prune``.

Left alone: the parts. The functions of upstream's ``__init__`` build them in the same order, so
the same seed gives the same weights.
"""

from torch import nn

from .. import structure
from ..checkpoint import build_mode, module_names
from ..checkpoint.loading import restructure_from
from ._patch import Patch, importable


def build(model, cfg, upstream):
    """Build a BlendMask into ``model``: dense, or with the widths of a checkpoint.

    Args:
        model (BlendMask): not initialized yet.
        cfg (CfgNode): its config.
        upstream (module): the module that defines the class.
    """
    from ..modeling.blendmask import build_parts
    from ..modeling.blendmask_config import basis_loss_config

    prune, checkpoint = build_mode(cfg)
    loss_on = cfg.MODEL.BASIS_MODULE.LOSS_ON
    if checkpoint is not None:
        cfg = basis_loss_config(cfg, module_names(checkpoint))

    nn.Module.__init__(model)
    build_parts(model, cfg, upstream.build_blender, upstream.build_basis_module)
    structure.remember(model, cfg)
    if checkpoint is not None:
        restructure_from(model, checkpoint)
        model.basis_module.loss_on = loss_on
    model.model_prune = model.proposal_generator.model_prune = prune


def forward(wrapped, instance, args, kwargs):
    """Return the raw head outputs if ``model_prune`` is set, else upstream's results.

    Returns:
        dict[str, list[Tensor]]: see :func:`blendprune.pruning.blendmask_outputs`.
    """
    if not getattr(instance, "model_prune", False):
        return wrapped(*args, **kwargs)
    from ..pruning.architectures import blendmask_outputs

    return blendmask_outputs(instance, *args, **kwargs)


def _install(module, edits):
    upstream = module.BlendMask.__init__

    def __init__(self, cfg):  # noqa: N807
        if edits.is_active():
            build(self, cfg, module)
        else:
            upstream(self, cfg)

    edits.replace(module.BlendMask, "__init__", __init__)
    edits.wrap(module.BlendMask, "forward", forward)


PATCHES = [
    Patch(
        name="prune-and-finetune-blendmask",
        module="adet.modeling.blendmask.blendmask",
        watches=("BlendMask",),
        digests=("11e24795b778c20d",),
        replaces=("BlendMask.__init__",),
        install=_install,
        when=lambda: importable("adet"),
    ),
    Patch(
        name="prune-and-finetune-blendmask",
        module="blendprune.modeling.blendmask",
        watches=("BlendMask",),
        digests=(),
        replaces=("BlendMask.__init__",),
        install=_install,
        when=lambda: not importable("adet"),
    ),
]
