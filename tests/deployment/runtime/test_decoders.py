"""Cores and decoder give what the model gives."""

import pytest
import torch

from tests.deployment.conftest import settled
from tests.helpers.exported import assert_same, count, detector_of, two_sizes
from tests.helpers.slow import slow_but
from tests.helpers.small_blendmask import PANOPTIC, small_cfg

BLENDMASKS = {
    "gn": (),
    "bn": ("MODEL.FCOS.NORM", "BN", "MODEL.RESNETS.NORM", "BN", "MODEL.BASIS_MODULE.NORM", "BN"),
    "three-levels": ("MODEL.FCOS.TOP_LEVELS", 0, "MODEL.FCOS.THRESH_WITH_CTR", True),
    "panoptic": PANOPTIC,
}


def halve(model):
    import blendprune

    blendprune.prune(model, max_flops=0.5, importance="magnitude", rounds=1)


def check(model, images):
    with torch.no_grad():
        expected = model(images)
        found = detector_of(model)(images)
    assert_same(expected, found)
    return expected


@pytest.mark.parametrize("kind", slow_but(BLENDMASKS, "panoptic", "three-levels"))
def test_a_blendmask_gives_the_same(registered, blendmask, kind):
    opts, prune = BLENDMASKS[kind], halve if kind in ("bn", "three-levels") else None
    panoptic = () if kind == "panoptic" else ("MODEL.PANOPTIC_FPN.COMBINE.ENABLED", False)
    model, images = blendmask(*panoptic, *opts, prune=prune)
    found = check(model, two_sizes(images))
    assert all(count(found)) and "pred_masks" in found[0]["instances"].get_fields()
    assert ("panoptic_seg" in found[0]) == (kind == "panoptic")


def test_a_pruned_retinanet_gives_the_same(zoo_model):
    model, images = zoo_model("retinanet", prune=halve)
    assert all(count(check(model, two_sizes(images))))


def test_where_nothing_is_found_there_are_no_instances(registered, blendmask, zoo_model):
    model, images = blendmask()
    model.proposal_generator.fcos_outputs.pre_nms_thresh_test = 2.0
    assert count(check(model, images)) == [0, 0]
    model, images = zoo_model("retinanet")
    [first, second] = count(model(two_sizes(images)))
    assert first and second
    model.test_score_thresh = 2.0
    assert count(check(model, two_sizes(images))) == [0, 0]


def test_an_fcos_gives_the_same(registered):
    cfg = small_cfg("MODEL.META_ARCHITECTURE", "ProposalNetwork", "MODEL.FPN.OUT_CHANNELS", 64)
    images = [{"image": 255 * torch.rand(3, 96, 96), "height": 90, "width": 80}] * 2
    found = check(settled(cfg), two_sizes(images))
    assert all(count(found)) and "proposals" in found[0]
