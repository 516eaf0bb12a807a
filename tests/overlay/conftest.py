"""What the tests of the overlay share."""

import pytest


@pytest.fixture
def retinanet_cfg():
    """A function that makes the config of a small RetinaNet R-18."""
    from detectron2 import model_zoo

    def make(*opts):
        cfg = model_zoo.get_config("COCO-Detection/retinanet_R_50_FPN_1x.yaml")
        cfg.merge_from_list([
            "MODEL.DEVICE", "cpu", "MODEL.WEIGHTS", "", "MODEL.RESNETS.DEPTH", 18,
            "MODEL.RESNETS.RES2_OUT_CHANNELS", 64, "MODEL.FPN.OUT_CHANNELS", 32,
            "MODEL.RETINANET.NUM_CLASSES", 3, "INPUT.MIN_SIZE_TEST", 64,
            "MODEL.RETINANET.SCORE_THRESH_TEST", 0.0, *opts,
        ])  # fmt: skip
        return cfg

    return make
