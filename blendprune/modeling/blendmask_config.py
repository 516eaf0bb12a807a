"""Config keys of BlendMask, with AdelaiDet's names and defaults."""

from ..errors import StructError


def add_blendmask_config(cfg):
    """Add the keys that BlendMask, FCOS, the backbone and the mapper read; existing keys are kept.

    Args:
        cfg (CfgNode): a detectron2 config, for example the one from ``get_cfg()``.
    """
    _add_backbone_and_input_config(cfg)
    _add_fcos_config(cfg)
    _add_mask_config(cfg)


def basis_loss_config(cfg, names):
    """Derive a config that builds the segmentation head if and only if the checkpoint has it.

    Args:
        cfg (CfgNode): config of a BlendMask; it is not modified.
        names (Iterable[str]): of the modules, or of the tensors, of the checkpoint.

    Returns:
        CfgNode: ``cfg`` with MODEL.BASIS_MODULE.LOSS_ON set. If the names are of another
        architecture, ``cfg`` itself; :func:`blendprune.restructure` then raises.

    Raises:
        StructError: LOSS_ON is True, but the checkpoint has no segmentation head.
    """
    inside = [name for name in names if name.startswith("basis_module.")]
    if not inside:
        return cfg
    has_head = any(name.startswith("basis_module.seg_head.") for name in inside)
    if cfg.MODEL.BASIS_MODULE.LOSS_ON and not has_head:
        raise StructError(
            "MODEL.BASIS_MODULE.LOSS_ON is True, but the model was pruned without its segmentation "
            "head: prune with LOSS_ON True, or fine-tune with MODEL.BASIS_MODULE.LOSS_ON False."
        )
    cfg = cfg.clone()
    cfg.defrost()
    cfg.MODEL.BASIS_MODULE.LOSS_ON = has_head
    return cfg


def _add_backbone_and_input_config(cfg):
    # Use MobileNetV2 instead of the ResNet (AdelaiDet only).
    cfg.MODEL.setdefault("MOBILENET", False)
    # ResNet with low-pass filters before strided layers (AdelaiDet only).
    cfg.MODEL.BACKBONE.setdefault("ANTI_ALIAS", False)
    # Every n-th block of a stage is deformable; n > 1 is AdelaiDet only.
    cfg.MODEL.RESNETS.setdefault("DEFORM_INTERVAL", 1)
    # Flip half of the training images horizontally.
    cfg.INPUT.setdefault("HFLIP_TRAIN", True)
    # Let a crop cut through instances (True), or grow it until it cuts none (False).
    cfg.INPUT.CROP.setdefault("CROP_INSTANCE", True)
    # Rotate training images by up to 30 degrees in both directions.
    cfg.INPUT.setdefault("IS_ROTATE", False)


def _add_fcos_config(cfg):
    fcos = cfg.MODEL.setdefault("FCOS", type(cfg)())
    # Number of foreground classes.
    fcos.setdefault("NUM_CLASSES", 80)
    # Pyramid levels the head runs on, finest first.
    fcos.setdefault("IN_FEATURES", ["p3", "p4", "p5", "p6", "p7"])
    # Stride of each of those levels, in pixels.
    fcos.setdefault("FPN_STRIDES", [8, 16, 32, 64, 128])
    # Foreground probability that the untrained classifier predicts.
    fcos.setdefault("PRIOR_PROB", 0.01)
    # Lowest score of a candidate, in training (for YIELD_PROPOSAL).
    fcos.setdefault("INFERENCE_TH_TRAIN", 0.05)
    # Lowest score of a candidate, in inference.
    fcos.setdefault("INFERENCE_TH_TEST", 0.05)
    # IoU above which NMS drops the weaker of two boxes of a class; 0 or less turns NMS off.
    fcos.setdefault("NMS_TH", 0.6)
    # Largest number of candidates per level and image before NMS, in training.
    fcos.setdefault("PRE_NMS_TOPK_TRAIN", 1000)
    # Largest number of candidates per level and image before NMS, in inference.
    fcos.setdefault("PRE_NMS_TOPK_TEST", 1000)
    # Largest number of detections per image after NMS, in training.
    fcos.setdefault("POST_NMS_TOPK_TRAIN", 100)
    # Largest number of detections per image after NMS, in inference.
    fcos.setdefault("POST_NMS_TOPK_TEST", 100)
    # Levels above p5 to build: 0, 1 (p6) or 2 (p6 and p7).
    fcos.setdefault("TOP_LEVELS", 2)
    # Norm in the towers: "GN", "NaiveGN", "BN", "SyncBN" (the last two one per level) or "none".
    fcos.setdefault("NORM", "GN")
    # Learn one factor per level for the box distances.
    fcos.setdefault("USE_SCALE", True)
    # What the quality output predicts: "ctrness" or "iou". BlendMask's mask loss needs "ctrness".
    fcos.setdefault("BOX_QUALITY", "ctrness")
    # Apply the score threshold after (True) or before (False) multiplying by the box quality.
    fcos.setdefault("THRESH_WITH_CTR", False)
    # Focal loss: weight of the foreground.
    fcos.setdefault("LOSS_ALPHA", 0.25)
    # Focal loss: exponent that down-weights easy examples.
    fcos.setdefault("LOSS_GAMMA", 2.0)
    # Divisor of the classification loss: the foreground locations of this step ("fg"), a running
    # mean of them ("moving_fg"), or all locations ("all").
    fcos.setdefault("LOSS_NORMALIZER_CLS", "fg")
    # Weight of the classification loss.
    fcos.setdefault("LOSS_WEIGHT_CLS", 1.0)
    # Bounds between the levels: largest distance from a location to an edge of its box, in pixels.
    fcos.setdefault("SIZES_OF_INTEREST", [64, 128, 256, 512])
    # Ignored, kept for old config files: box distances always go through a ReLU.
    fcos.setdefault("USE_RELU", True)
    # Make the last conv of the class and the box tower deformable.
    fcos.setdefault("USE_DEFORMABLE", False)
    # Convs of the class tower.
    fcos.setdefault("NUM_CLS_CONVS", 4)
    # Convs of the box tower.
    fcos.setdefault("NUM_BOX_CONVS", 4)
    # Convs that both towers share.
    fcos.setdefault("NUM_SHARE_CONVS", 0)
    # Use only locations near a box's centre as its positives.
    fcos.setdefault("CENTER_SAMPLE", True)
    # Largest distance from the centre, in strides.
    fcos.setdefault("POS_RADIUS", 1.5)
    # Box loss: "iou", "linear_iou" or "giou".
    fcos.setdefault("LOC_LOSS_TYPE", "giou")
    # Also return detections while training.
    fcos.setdefault("YIELD_PROPOSAL", False)
    # Also return the box tower's feature maps.
    fcos.setdefault("YIELD_BOX_FEATURES", False)


def _add_mask_config(cfg):
    blendmask = cfg.MODEL.setdefault("BLENDMASK", type(cfg)())
    # Side length of an instance's attention map.
    blendmask.setdefault("ATTN_SIZE", 14)
    # Interpolation mode that resizes attention maps to BOTTOM_RESOLUTION.
    blendmask.setdefault("TOP_INTERP", "bilinear")
    # Side length of a region cropped from the bases, and of a mask.
    blendmask.setdefault("BOTTOM_RESOLUTION", 56)
    # Operator that crops the regions.
    blendmask.setdefault("POOLER_TYPE", "ROIAlignV2")
    # Its samples per bin along each axis.
    blendmask.setdefault("POOLER_SAMPLING_RATIO", 1)
    # Scale of the bases relative to the image.
    blendmask.setdefault("POOLER_SCALES", (0.25,))
    # Weight of the mask loss.
    blendmask.setdefault("INSTANCE_LOSS_WEIGHT", 1.0)
    # Also return bases and the auxiliary segmentation in inference.
    blendmask.setdefault("VISUALIZE", False)

    basis = cfg.MODEL.setdefault("BASIS_MODULE", type(cfg)())
    # Entry of BASIS_MODULE_REGISTRY that computes the bases.
    basis.setdefault("NAME", "ProtoNet")
    # Number of bases.
    basis.setdefault("NUM_BASES", 4)
    # Add an auxiliary loss: semantic segmentation of the things.
    basis.setdefault("LOSS_ON", False)
    # Label files that AdelaiDet's mapper reads for it; this package's mapper needs no files.
    basis.setdefault("ANN_SET", "coco")
    # Width of the module's convs.
    basis.setdefault("CONVS_DIM", 128)
    # Pyramid levels it reads, finest first.
    basis.setdefault("IN_FEATURES", ["p3", "p4", "p5"])
    # Norm of its convs.
    basis.setdefault("NORM", "SyncBN")
    # Convs between summing the levels and doubling the resolution.
    basis.setdefault("NUM_CONVS", 3)
    # Stride of the auxiliary segmentation, in pixels.
    basis.setdefault("COMMON_STRIDE", 8)
    # Its number of classes, without background.
    basis.setdefault("NUM_CLASSES", 80)
    # Weight of its loss.
    basis.setdefault("LOSS_WEIGHT", 0.3)

    cfg.MODEL.setdefault("BOXINST", type(cfg)())
    # Train on boxes alone: the mapper omits the instance masks.
    cfg.MODEL.BOXINST.setdefault("ENABLED", False)

    cfg.MODEL.setdefault("TOP_MODULE", type(cfg)())
    # Layer that AdelaiDet's one-stage detectors add to the box tower; BlendMask uses its own.
    cfg.MODEL.TOP_MODULE.setdefault("NAME", "conv")
    # Its output channels.
    cfg.MODEL.TOP_MODULE.setdefault("DIM", 16)
