"""Small BlendMask models and inputs for them, with our BlendMask found by name or not."""

import contextlib

import torch
from detectron2.config import get_cfg
from detectron2.modeling import BACKBONE_REGISTRY, META_ARCH_REGISTRY
from detectron2.modeling.proposal_generator.build import PROPOSAL_GENERATOR_REGISTRY
from detectron2.structures import BitMasks, Boxes, Instances

from blendprune.modeling.backbone import build_fcos_resnet_fpn_backbone
from blendprune.modeling.blendmask import BlendMask
from blendprune.modeling.blendmask_config import add_blendmask_config
from blendprune.modeling.fcos import FCOS

OURS = (
    (META_ARCH_REGISTRY, BlendMask),
    (PROPOSAL_GENERATOR_REGISTRY, FCOS),
    (BACKBONE_REGISTRY, build_fcos_resnet_fpn_backbone),
)


def ours_registered():
    """Put our entries into detectron2's registries, whatever they hold, for a while."""
    return _swapped({entry.__name__: entry for _, entry in OURS})


def theirs_registered():
    """Put AdelaiDet's entries into detectron2's registries for a while."""
    from adet.modeling import blendmask, fcos
    from adet.modeling.backbone import fpn

    entries = (blendmask.BlendMask, fcos.FCOS, fpn.build_fcos_resnet_fpn_backbone)
    return _swapped({entry.__name__: entry for entry in entries})


def hide_ours():
    """Take our entries out of detectron2's registries for good."""
    for registry, entry in OURS:
        if registry._obj_map.get(entry.__name__) is entry:
            del registry._obj_map[entry.__name__]


@contextlib.contextmanager
def _swapped(entries):
    missing = object()
    before = []
    for registry, ours in OURS:
        name = ours.__name__
        before.append((registry, name, registry._obj_map.get(name, missing)))
        registry._obj_map[name] = entries[name]
    try:
        yield
    finally:
        for registry, name, entry in before:
            del registry._obj_map[name]
            if entry is not missing:
                registry._obj_map[name] = entry


def small_cfg(*options):
    """Config of a narrow R-18 BlendMask on CPU; options are ``KEY, VALUE, ...``."""
    cfg = get_cfg()
    add_blendmask_config(cfg)
    cfg.merge_from_list(
        [
            *("MODEL.DEVICE", "cpu"),
            *("MODEL.META_ARCHITECTURE", "BlendMask"),
            *("MODEL.MASK_ON", True),
            *("MODEL.BACKBONE.NAME", "build_fcos_resnet_fpn_backbone"),
            *("MODEL.PROPOSAL_GENERATOR.NAME", "FCOS"),
            *("MODEL.RESNETS.DEPTH", 18),
            *("MODEL.RESNETS.RES2_OUT_CHANNELS", 64),
            *("MODEL.RESNETS.OUT_FEATURES", ["res3", "res4", "res5"]),
            *("MODEL.FPN.IN_FEATURES", ["res3", "res4", "res5"]),
            *("MODEL.FPN.OUT_CHANNELS", 32),
            *("MODEL.FCOS.NUM_CLASSES", 5),
            *("MODEL.FCOS.NUM_CLS_CONVS", 1),
            *("MODEL.FCOS.NUM_BOX_CONVS", 1),
            *("MODEL.FCOS.INFERENCE_TH_TEST", 0.001),
            *("MODEL.FCOS.POST_NMS_TOPK_TEST", 10),
            *("MODEL.BASIS_MODULE.NUM_CLASSES", 5),
            *("MODEL.BASIS_MODULE.CONVS_DIM", 16),
            *("MODEL.BASIS_MODULE.NUM_CONVS", 1),
            *("MODEL.BASIS_MODULE.LOSS_ON", True),
            *("MODEL.BLENDMASK.ATTN_SIZE", 4),
            *("MODEL.BLENDMASK.BOTTOM_RESOLUTION", 16),
        ]
    )
    cfg.merge_from_list(list(options))
    levels = cfg.MODEL.FCOS.TOP_LEVELS
    cfg.MODEL.FCOS.IN_FEATURES = ["p3", "p4", "p5", "p6", "p7"][: 3 + levels]
    cfg.MODEL.FCOS.FPN_STRIDES = [8, 16, 32, 64, 128][: 3 + levels]
    cfg.MODEL.FCOS.SIZES_OF_INTEREST = [64, 128, 256, 512][: 2 + levels]
    return cfg


PANOPTIC = (
    *("MODEL.PANOPTIC_FPN.COMBINE.ENABLED", True),
    *("MODEL.RESNETS.OUT_FEATURES", ["res2", "res3", "res4", "res5"]),
    *("MODEL.FPN.IN_FEATURES", ["res2", "res3", "res4", "res5"]),
    *("MODEL.SEM_SEG_HEAD.CONVS_DIM", 32),
    *("MODEL.SEM_SEG_HEAD.NUM_CLASSES", 6),
    *("MODEL.PANOPTIC_FPN.COMBINE.INSTANCES_CONFIDENCE_THRESH", 0.01),
    *("MODEL.PANOPTIC_FPN.COMBINE.STUFF_AREA_LIMIT", 10),
)


def inputs(*sizes, seed=0, instances=3, channels=3):
    """Random images of the given (height, width), with instances, basis and panoptic labels."""
    generator = torch.Generator().manual_seed(seed)
    return [_input(size, instances, channels, generator) for size in sizes]


def empty_input(size):
    """An image without any instance, and without gt_masks, as detectron2's mapper gives it."""
    image = inputs(size, instances=0)[0]
    image["instances"].remove("gt_masks")
    return image


def _input(size, count, channels, generator):
    height, width = size
    limit = torch.tensor([width, height])
    corner = torch.rand(count, 2, generator=generator) * limit * 0.5
    extent = (0.2 + 0.3 * torch.rand(count, 2, generator=generator)) * limit
    found = Instances(size)
    found.gt_boxes = Boxes(torch.cat([corner, corner + extent], dim=1))
    found.gt_classes = torch.randint(5, (count,), generator=generator)
    masks = torch.zeros(count, height, width, dtype=torch.bool)
    basis = torch.zeros(height, width, dtype=torch.long)
    for mask, box, label in zip(masks, found.gt_boxes.tensor.long(), found.gt_classes, strict=True):
        x0, y0, x1, y1 = box.tolist()
        mask[y0:y1, x0 : (x0 + x1) // 2] = True
        basis[mask] = label + 1
    found.gt_masks = BitMasks(masks)
    return {
        "image": torch.rand(channels, height, width, generator=generator) * 255,
        "instances": found,
        "basis_sem": basis,
        "sem_seg": torch.randint(6, size, generator=generator),
        "height": height * 2,
        "width": width + 7,
    }


def build_ours(cfg, seed=0):
    """Build our BlendMask, its parts found by name in detectron2's registries."""
    torch.manual_seed(seed)
    with ours_registered():
        return BlendMask(cfg)
