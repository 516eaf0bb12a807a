"""One small model of each of detectron2's projects that build on its config."""

from tests.helpers.small_zoo import SMALL
from tests.zoo import PROJECTS, load_config

MASK_RCNN = "COCO-InstanceSegmentation/mask_rcnn_R_50_FPN_1x"
SEMANTIC = "Misc/semantic_R_50_FPN_1x"

COARSE = ("MODEL.ROI_HEADS.NUM_CLASSES", 5, "MODEL.POINT_HEAD.NUM_CLASSES", 5)
COARSE += ("MODEL.ROI_MASK_HEAD.POOLER_TYPE", "", "MODEL.ROI_MASK_HEAD.FC_DIM", 32)
POINTS = ("MODEL.POINT_HEAD.FC_DIM", 32, "MODEL.POINT_HEAD.SUBDIVISION_STEPS", 1)
POINTS += ("MODEL.POINT_HEAD.TRAIN_NUM_POINTS", 49, "MODEL.POINT_HEAD.SUBDIVISION_NUM_POINTS", 49)
POINT_REND = (*COARSE, *POINTS, "MODEL.ROI_MASK_HEAD.NAME", "PointRendMaskHead")
POINT_REND += ("MODEL.ROI_MASK_HEAD.POINT_HEAD_ON", True)
IMPLICIT = (*COARSE, *POINTS, "MODEL.ROI_MASK_HEAD.NAME", "ImplicitPointRendMaskHead")
IMPLICIT += ("MODEL.POINT_HEAD.NAME", "ImplicitPointHead")
POINT_REND_SEMANTIC = (*POINTS, "MODEL.SEM_SEG_HEAD.NAME", "PointRendSemSegHead")
POINT_REND_SEMANTIC += ("MODEL.POINT_HEAD.NUM_CLASSES", 54)
POINT_REND_SEMANTIC += ("MODEL.POINT_HEAD.COARSE_PRED_EACH_LAYER", False)

DILATED = ("MODEL.BACKBONE.NAME", "build_resnet_deeplab_backbone", "MODEL.RESNETS.NORM", "BN")
DILATED += ("MODEL.BACKBONE.FREEZE_AT", 0, "MODEL.RESNETS.RES5_DILATION", 2)
DILATED += ("MODEL.SEM_SEG_HEAD.NORM", "BN", "MODEL.SEM_SEG_HEAD.CONVS_DIM", 32)
DILATED += ("MODEL.SEM_SEG_HEAD.ASPP_CHANNELS", 32)
V3 = (*DILATED, "MODEL.SEM_SEG_HEAD.NAME", "DeepLabV3Head")
V3 += ("MODEL.RESNETS.OUT_FEATURES", ["res5"], "MODEL.SEM_SEG_HEAD.IN_FEATURES", ["res5"])
V3 += ("MODEL.SEM_SEG_HEAD.COMMON_STRIDE", 16)
SKIPS = ["res2", "res5"]
V3_PLUS = (*DILATED, "MODEL.SEM_SEG_HEAD.NAME", "DeepLabV3PlusHead")
V3_PLUS += ("MODEL.RESNETS.OUT_FEATURES", SKIPS, "MODEL.SEM_SEG_HEAD.IN_FEATURES", SKIPS)
PANOPTIC = (*DILATED, "MODEL.META_ARCHITECTURE", "PanopticDeepLab")
PANOPTIC += ("MODEL.SEM_SEG_HEAD.NAME", "PanopticDeepLabSemSegHead")
PANOPTIC += ("DATASETS.TRAIN", ("cityscapes_fine_panoptic_train",))
for _head in ("SEM_SEG_HEAD", "INS_EMBED_HEAD"):
    PANOPTIC += (f"MODEL.{_head}.IN_FEATURES", SKIPS, f"MODEL.{_head}.PROJECT_FEATURES", ["res2"])
    PANOPTIC += (f"MODEL.{_head}.PROJECT_CHANNELS", [16], f"MODEL.{_head}.HEAD_CHANNELS", 16)
PANOPTIC += ("MODEL.INS_EMBED_HEAD.NORM", "BN", "MODEL.INS_EMBED_HEAD.CONVS_DIM", 32)
PANOPTIC += ("MODEL.INS_EMBED_HEAD.ASPP_CHANNELS", 32, "MODEL.RESNETS.OUT_FEATURES", SKIPS)

FAMILIES = {
    "point-rend": (MASK_RCNN, "PointRend", *POINT_REND),
    "point-rend-implicit": (MASK_RCNN, "PointRend", *IMPLICIT),
    "point-rend-semantic": (SEMANTIC, "PointRend", *POINT_REND_SEMANTIC),
    "deeplab-v3": (SEMANTIC, "DeepLab", *V3),
    "deeplab-v3-plus": (SEMANTIC, "DeepLab", *V3_PLUS),
    "panoptic-deeplab": (SEMANTIC, "Panoptic-DeepLab", *PANOPTIC),
    "panoptic-deeplab-depthwise": (SEMANTIC, "Panoptic-DeepLab", *PANOPTIC)
    + ("MODEL.SEM_SEG_HEAD.USE_DEPTHWISE_SEPARABLE_CONV", True)
    + ("MODEL.PANOPTIC_DEEPLAB.USE_DEPTHWISE_SEPARABLE_CONV", True),
}


def config_of(family, *opts):
    base, project, *own = FAMILIES[family]
    cfg = load_config(f"{base}.yaml")
    PROJECTS[project](cfg)
    cfg.merge_from_list([*SMALL, *own, *opts])
    return cfg
