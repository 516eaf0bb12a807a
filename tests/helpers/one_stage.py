"""The smallest detector of detectron2: a RetinaNet on one stage of a ResNet-18."""


def one_stage_cfg():
    """Its config, for images of 64 pixels on the CPU."""
    from detectron2 import model_zoo

    cfg = model_zoo.get_config("COCO-Detection/retinanet_R_50_FPN_1x.yaml")
    cfg.merge_from_list([
        "MODEL.DEVICE", "cpu", "MODEL.WEIGHTS", "", "MODEL.BACKBONE.NAME", "build_resnet_backbone",
        "MODEL.RESNETS.DEPTH", 18, "MODEL.RESNETS.RES2_OUT_CHANNELS", 64,
        "MODEL.RESNETS.OUT_FEATURES", ["res2"], "MODEL.RETINANET.IN_FEATURES", ["res2"],
        "MODEL.ANCHOR_GENERATOR.SIZES", [[32]], "MODEL.RETINANET.NUM_CONVS", 1,
        "MODEL.RETINANET.NUM_CLASSES", 3, "INPUT.MIN_SIZE_TEST", 64, "INPUT.MAX_SIZE_TEST", 64,
    ])  # fmt: skip
    return cfg
