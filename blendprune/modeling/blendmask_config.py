"""Config keys of BlendMask, with the names and defaults that AdelaiDet's configs expect."""

from detectron2.config import CfgNode


def add_blendmask_config(cfg):
    """Add the keys that BlendMask, FCOS, the backbone and the mapper read; existing keys are kept.

    Args:
        cfg (CfgNode): a detectron2 config, for example the one from ``get_cfg()``.
    """
    _add_backbone_and_input_config(cfg)
    _add_fcos_config(cfg)
    _add_mask_config(cfg)


def _add_backbone_and_input_config(cfg):
    # MobileNetV2 in place of the ResNet; AdelaiDet alone has it.
    _default(cfg.MODEL, "MOBILENET", False)
    # ResNet with low-pass filters before its strides; AdelaiDet alone has it.
    _default(cfg.MODEL.BACKBONE, "ANTI_ALIAS", False)
    # Every how many blocks of a stage one is deformable; above 1 AdelaiDet alone has it.
    _default(cfg.MODEL.RESNETS, "DEFORM_INTERVAL", 1)
    # Mirror half of the training images left to right.
    _default(cfg.INPUT, "HFLIP_TRAIN", True)
    # Whether a crop may cut through instances; if not, it grows until it cuts none.
    _default(cfg.INPUT.CROP, "CROP_INSTANCE", True)
    # Rotate training images by up to 30 degrees either way.
    _default(cfg.INPUT, "IS_ROTATE", False)


def _add_fcos_config(cfg):
    _default(cfg.MODEL, "FCOS", CfgNode())
    fcos = cfg.MODEL.FCOS
    # Number of foreground classes.
    _default(fcos, "NUM_CLASSES", 80)
    # Pyramid levels the head runs on, finest first.
    _default(fcos, "IN_FEATURES", ["p3", "p4", "p5", "p6", "p7"])
    # Stride of each of those levels, in pixels.
    _default(fcos, "FPN_STRIDES", [8, 16, 32, 64, 128])
    # Foreground probability that the untrained classifier should start from.
    _default(fcos, "PRIOR_PROB", 0.01)
    # Lowest score of a candidate, in training (for YIELD_PROPOSAL).
    _default(fcos, "INFERENCE_TH_TRAIN", 0.05)
    # Lowest score of a candidate, in inference.
    _default(fcos, "INFERENCE_TH_TEST", 0.05)
    # IoU above which NMS drops the weaker of two boxes of a class; 0 or less turns NMS off.
    _default(fcos, "NMS_TH", 0.6)
    # Candidates per level and image that reach NMS, in training.
    _default(fcos, "PRE_NMS_TOPK_TRAIN", 1000)
    # Candidates per level and image that reach NMS, in inference.
    _default(fcos, "PRE_NMS_TOPK_TEST", 1000)
    # Detections per image after NMS, in training.
    _default(fcos, "POST_NMS_TOPK_TRAIN", 100)
    # Detections per image after NMS, in inference.
    _default(fcos, "POST_NMS_TOPK_TEST", 100)
    # Levels above p5 to build: 0, 1 (p6) or 2 (p6 and p7).
    _default(fcos, "TOP_LEVELS", 2)
    # Norm in the towers: "GN", "NaiveGN", "BN", "SyncBN" (the last two one per level) or "none".
    _default(fcos, "NORM", "GN")
    # Learn one factor per level for the box distances.
    _default(fcos, "USE_SCALE", True)
    # What the second box output learns: "ctrness" or "iou". BlendMask's mask loss needs "ctrness".
    _default(fcos, "BOX_QUALITY", "ctrness")
    # Apply the score threshold after (True) or before (False) multiplying by the box quality.
    _default(fcos, "THRESH_WITH_CTR", False)
    # Focal loss: weight of the foreground.
    _default(fcos, "LOSS_ALPHA", 0.25)
    # Focal loss: exponent that quiets easy examples.
    _default(fcos, "LOSS_GAMMA", 2.0)
    # What the classification loss is divided by: foreground locations of this step ("fg"), a
    # running mean of them ("moving_fg"), or all locations ("all").
    _default(fcos, "LOSS_NORMALIZER_CLS", "fg")
    # Weight of the classification loss.
    _default(fcos, "LOSS_WEIGHT_CLS", 1.0)
    # Bounds between the levels on the largest distance from a location to its box, in pixels.
    _default(fcos, "SIZES_OF_INTEREST", [64, 128, 256, 512])
    # Kept for old config files; box distances always go through a ReLU.
    _default(fcos, "USE_RELU", True)
    # Make the last conv of the class and the box tower deformable.
    _default(fcos, "USE_DEFORMABLE", False)
    # Convs of the class tower.
    _default(fcos, "NUM_CLS_CONVS", 4)
    # Convs of the box tower.
    _default(fcos, "NUM_BOX_CONVS", 4)
    # Convs before the two towers part.
    _default(fcos, "NUM_SHARE_CONVS", 0)
    # Only locations near the centre of a box are its positives.
    _default(fcos, "CENTER_SAMPLE", True)
    # How near, in strides.
    _default(fcos, "POS_RADIUS", 1.5)
    # Box loss: "iou", "linear_iou" or "giou".
    _default(fcos, "LOC_LOSS_TYPE", "giou")
    # Also return detections while training.
    _default(fcos, "YIELD_PROPOSAL", False)
    # Also return the box tower's feature maps.
    _default(fcos, "YIELD_BOX_FEATURES", False)


def _add_mask_config(cfg):
    _default(cfg.MODEL, "BLENDMASK", CfgNode())
    blendmask = cfg.MODEL.BLENDMASK
    # Side of an instance's attention map.
    _default(blendmask, "ATTN_SIZE", 14)
    # How attention maps are enlarged to the resolution of the bases.
    _default(blendmask, "TOP_INTERP", "bilinear")
    # Side of a region cut from the bases, which is the side of a mask.
    _default(blendmask, "BOTTOM_RESOLUTION", 56)
    # Operator that cuts the regions.
    _default(blendmask, "POOLER_TYPE", "ROIAlignV2")
    # Its samples per bin, along each axis.
    _default(blendmask, "POOLER_SAMPLING_RATIO", 1)
    # Scale of the bases relative to the image.
    _default(blendmask, "POOLER_SCALES", (0.25,))
    # Weight of the mask loss.
    _default(blendmask, "INSTANCE_LOSS_WEIGHT", 1.0)
    # Also return bases and the auxiliary segmentation in inference.
    _default(blendmask, "VISUALIZE", False)

    _default(cfg.MODEL, "BASIS_MODULE", CfgNode())
    basis = cfg.MODEL.BASIS_MODULE
    # Which entry of BASIS_MODULE_REGISTRY draws the bases.
    _default(basis, "NAME", "ProtoNet")
    # Number of bases.
    _default(basis, "NUM_BASES", 4)
    # Train an auxiliary semantic segmentation of the things beside the bases.
    _default(basis, "LOSS_ON", False)
    # Which files AdelaiDet's mapper reads that segmentation from; ours paints it from the masks.
    _default(basis, "ANN_SET", "coco")
    # Width of the module's convs.
    _default(basis, "CONVS_DIM", 128)
    # Pyramid levels it reads, finest first.
    _default(basis, "IN_FEATURES", ["p3", "p4", "p5"])
    # Norm of its convs.
    _default(basis, "NORM", "SyncBN")
    # Convs between summing the levels and doubling the resolution.
    _default(basis, "NUM_CONVS", 3)
    # Stride of the auxiliary segmentation, in pixels.
    _default(basis, "COMMON_STRIDE", 8)
    # Its number of classes, background not counted.
    _default(basis, "NUM_CLASSES", 80)
    # Weight of its loss.
    _default(basis, "LOSS_WEIGHT", 0.3)

    _default(cfg.MODEL, "BOXINST", CfgNode())
    # Learn from boxes alone: the mapper leaves the instance masks out.
    _default(cfg.MODEL.BOXINST, "ENABLED", False)

    _default(cfg.MODEL, "TOP_MODULE", CfgNode())
    # Layer that AdelaiDet's one-stage detectors put on the box tower; BlendMask has its own.
    _default(cfg.MODEL.TOP_MODULE, "NAME", "conv")
    # Its output channels.
    _default(cfg.MODEL.TOP_MODULE, "DIM", 16)


def _default(node, key, value):
    if key not in node:
        node[key] = value
