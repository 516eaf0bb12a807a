"""One small model of each family of detectron2's model zoo."""

from tests.zoo import load_config

SMALL = ("MODEL.RESNETS.STEM_OUT_CHANNELS", 16, "MODEL.RESNETS.WIDTH_PER_GROUP", 16)
SMALL += ("MODEL.RESNETS.RES2_OUT_CHANNELS", 64, "MODEL.FPN.OUT_CHANNELS", 64)
SMALL += ("MODEL.ROI_BOX_HEAD.FC_DIM", 64, "MODEL.ROI_BOX_HEAD.CONV_DIM", 64)
SMALL += ("MODEL.ROI_MASK_HEAD.CONV_DIM", 64, "MODEL.ROI_KEYPOINT_HEAD.CONV_DIMS", [32, 32])
SMALL += ("MODEL.SEM_SEG_HEAD.CONVS_DIM", 128, "MODEL.RETINANET.NUM_CONVS", 1)
SMALL += ("MODEL.RPN.POST_NMS_TOPK_TEST", 50, "TEST.DETECTIONS_PER_IMAGE", 10)
SMALL += ("DATASETS.TRAIN", (), "DATASETS.TEST", ())
# ResNet-18 and two levels, for models with a feature pyramid.
TINY = ("MODEL.RESNETS.DEPTH", 18, "MODEL.FPN.OUT_CHANNELS", 32, "MODEL.FPN.IN_FEATURES")
TINY += (["res4", "res5"], "MODEL.BACKBONE.NAME", "build_resnet_fpn_backbone")
TINY += ("MODEL.RPN.IN_FEATURES", ["p4", "p5", "p6"], "MODEL.ANCHOR_GENERATOR.SIZES", [[32]])
for _head in ("ROI_HEADS", "RETINANET", "SEM_SEG_HEAD"):
    TINY += (f"MODEL.{_head}.IN_FEATURES", ["p4", "p5"])
FAMILIES = {
    "box-fpn-r18": ("COCO-Detection/faster_rcnn_R_50_FPN_1x", "MODEL.RESNETS.DEPTH", 18),
    "box-given-proposals": ("COCO-Detection/fast_rcnn_R_50_FPN_1x",),
    "mask-fpn": ("COCO-InstanceSegmentation/mask_rcnn_R_50_FPN_1x",),
    "mask-c4": ("COCO-InstanceSegmentation/mask_rcnn_R_50_C4_1x",),
    "mask-dc5": ("COCO-InstanceSegmentation/mask_rcnn_R_50_DC5_1x",),
    "keypoint": ("COCO-Keypoints/keypoint_rcnn_R_50_FPN_1x",),
    "cascade": ("Misc/cascade_mask_rcnn_R_50_FPN_1x",),
    "resnext": ("COCO-Detection/faster_rcnn_X_101_32x8d_FPN_3x",)
    + ("MODEL.RESNETS.DEPTH", 50, "MODEL.RESNETS.NUM_GROUPS", 4),
    "retinanet": ("COCO-Detection/retinanet_R_50_FPN_1x",),
    "rpn-fpn": ("COCO-Detection/rpn_R_50_FPN_1x",),
    "rpn-c4": ("COCO-Detection/rpn_R_50_C4_1x",),
    "panoptic": ("COCO-PanopticSegmentation/panoptic_fpn_R_50_1x",),
    "semantic": ("Misc/semantic_R_50_FPN_1x",),
    "syncbn": ("Misc/mask_rcnn_R_50_FPN_3x_syncbn",),
    "deformable": ("Misc/mask_rcnn_R_50_FPN_1x_dconv_c3-c5",),
    "modulated": ("Misc/mask_rcnn_R_50_FPN_1x_dconv_c3-c5",)
    + ("MODEL.RESNETS.DEFORM_MODULATED", True, "MODEL.RESNETS.NUM_GROUPS", 4),
    "group-norm": ("Misc/scratch_mask_rcnn_R_50_FPN_3x_gn",)
    + ("MODEL.RESNETS.WIDTH_PER_GROUP", 64, "MODEL.RESNETS.RES2_OUT_CHANNELS", 128)
    + ("MODEL.RESNETS.STEM_OUT_CHANNELS", 64, "MODEL.FPN.OUT_CHANNELS", 128)
    + ("MODEL.ROI_MASK_HEAD.CONV_DIM", 128, "MODEL.ROI_BOX_HEAD.CONV_DIM", 128),
}


def config_of(family, *opts):
    name, *own = FAMILIES[family]
    cfg = load_config(f"{name}.yaml")
    cfg.MODEL.DEVICE, cfg.MODEL.WEIGHTS = "cpu", ""
    cfg.merge_from_list([*SMALL, *own, *opts])
    return cfg
