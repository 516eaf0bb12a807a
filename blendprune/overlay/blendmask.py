"""``BlendMask``, of AdelaiDet or our own: the FINETUNE and PRUNE branches, and the early exit.

Replaced: ``__init__``, because upstream's fixes the image to three channels
(``pixel_mean.view(3, 1, 1)``) and keeps its normalizer in a lambda, which nothing can pickle.
Extended: ``forward``, which leaves early with the raw head outputs under ``model_prune``.

Left alone: everything the parts themselves do; they are built by the functions that upstream's
``__init__`` calls, in the same order, so the same seed gives the same weights.
"""

import torch
from torch import nn

from .. import structure
from ..checkpoint import read_struct
from ..config import basis_loss_config, prune_mode
from ._patch import Patch, importable


def build(model, cfg, upstream):
    """Build a BlendMask into ``model``: dense, or with the widths of a checkpoint.

    Args:
        model (BlendMask): not initialised yet.
        cfg (CfgNode): its config.
        upstream (module): the module that defines the class.
    """
    from detectron2.modeling import build_backbone, build_proposal_generator
    from detectron2.modeling.meta_arch.semantic_seg import build_sem_seg_head

    from ..modeling.normalizer import Normalizer

    prune, finetune = prune_mode(cfg)
    struct = read_struct(cfg.MODEL.WEIGHTS) if finetune else None
    loss_on = cfg.MODEL.BASIS_MODULE.LOSS_ON
    if finetune:
        cfg = basis_loss_config(cfg, struct)

    nn.Module.__init__(model)
    model.device = torch.device(cfg.MODEL.DEVICE)
    model.instance_loss_weight = cfg.MODEL.BLENDMASK.INSTANCE_LOSS_WEIGHT
    model.backbone = build_backbone(cfg)
    shapes = model.backbone.output_shape()
    model.proposal_generator = build_proposal_generator(cfg, shapes)
    model.blender = upstream.build_blender(cfg)
    model.basis_module = upstream.build_basis_module(cfg, shapes)

    combine = cfg.MODEL.PANOPTIC_FPN.COMBINE
    model.combine_on = combine.ENABLED
    if model.combine_on:
        model.panoptic_module = build_sem_seg_head(cfg, shapes)
        model.combine_overlap_threshold = combine.OVERLAP_THRESH
        model.combine_stuff_area_limit = combine.STUFF_AREA_LIMIT
        model.combine_instances_confidence_threshold = combine.INSTANCES_CONFIDENCE_THRESH

    attention = cfg.MODEL.BASIS_MODULE.NUM_BASES * cfg.MODEL.BLENDMASK.ATTN_SIZE**2
    model.top_layer = nn.Conv2d(cfg.MODEL.FPN.OUT_CHANNELS, attention, 3, padding=1)
    nn.init.normal_(model.top_layer.weight, std=0.01)
    nn.init.zeros_(model.top_layer.bias)
    model.normalizer = Normalizer(cfg.MODEL.PIXEL_MEAN, cfg.MODEL.PIXEL_STD, model.device)
    model.to(model.device)

    structure.remember(model, cfg)
    if finetune:
        structure.restructure(model, struct)
        model.basis_module.loss_on = loss_on
    model.model_prune = model.proposal_generator.model_prune = prune


def forward(wrapped, instance, args, kwargs):
    """Leave early with the raw head outputs if ``model_prune`` is set.

    Returns:
        dict[str, list[Tensor]]: see :func:`blendprune.pruning.outputs.blendmask_outputs`.
    """
    if not getattr(instance, "model_prune", False):
        return wrapped(*args, **kwargs)
    from ..pruning.outputs import blendmask_outputs

    return blendmask_outputs(instance, *args, **kwargs)


def _install(module, edits):
    def __init__(self, cfg):  # noqa: N807
        build(self, cfg, module)

    edits.set(module.BlendMask, "__init__", __init__)
    edits.wrap(module.BlendMask, "forward", forward)


PATCHES = [
    Patch(
        name="prune-and-finetune-blendmask",
        module="adet.modeling.blendmask.blendmask",
        watches=("BlendMask",),
        digests=("11e24795b778c20d",),
        install=_install,
        when=lambda: importable("adet"),
    ),
    Patch(
        name="prune-and-finetune-blendmask",
        module="blendprune.modeling.blendmask",
        watches=("BlendMask",),
        digests=(),
        install=_install,
        when=lambda: not importable("adet"),
    ),
]
