"""Cores and decoder give what the model gives."""

import pytest
import torch

from blendprune.errors import DeployError
from tests.deployment.conftest import images_of, settled
from tests.helpers import small_lazy, small_projects, small_transformers
from tests.helpers.exported import assert_same, count, detector_of, instances_of, two_sizes
from tests.helpers.slow import slow_but
from tests.helpers.small_blendmask import PANOPTIC, small_cfg
from tests.zoo import build_dense, few_regions

BLENDMASKS = {
    "gn": (),
    "bn": ("MODEL.FCOS.NORM", "BN", "MODEL.RESNETS.NORM", "BN", "MODEL.BASIS_MODULE.NORM", "BN"),
    "three-levels": ("MODEL.FCOS.TOP_LEVELS", 0, "MODEL.FCOS.THRESH_WITH_CTR", True),
    "panoptic": PANOPTIC,
}


# Families of the zoo → what they give.
FAMILIES = {
    "retinanet": {"pred_boxes"},
    "mask-fpn": {"pred_boxes", "pred_masks"},
    "mask-c4": {"pred_boxes", "pred_masks"},
    "mask-dc5": {"pred_boxes", "pred_masks"},
    "cascade": {"pred_boxes", "pred_masks"},
    "keypoint": {"pred_boxes", "pred_keypoints", "pred_keypoint_heatmaps"},
    "box-given-proposals": {"pred_boxes"},
    "panoptic": {"pred_boxes", "pred_masks"},
    "semantic": None,
    "rpn-fpn": {"proposal_boxes"},
    "rpn-c4": {"proposal_boxes"},
    "group-norm": {"pred_boxes", "pred_masks"},
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


@pytest.mark.parametrize("family", slow_but(FAMILIES, "cascade", "panoptic", "rpn-c4", "semantic"))
def test_a_dense_model_of_the_zoo_gives_the_same(zoo_model, family):
    check_zoo_model(*zoo_model(family), family)


PRUNED = ("retinanet", "mask-fpn", "mask-c4", "cascade", "semantic")


@pytest.mark.parametrize("family", slow_but(PRUNED, "mask-fpn"))
def test_a_pruned_model_of_the_zoo_gives_the_same(zoo_model, family):
    check_zoo_model(*zoo_model(family, prune=halve), family)


def check_zoo_model(model, images, family):
    images = two_sizes(images)
    for batch in (images, images[1:]):
        found = check(model, batch)
        if FAMILIES[family] is None:
            assert found[0].keys() == {"sem_seg"}
            continue
        assert all(count(found))
        assert FAMILIES[family] <= instances_of(found[0]).get_fields().keys()
        assert ("panoptic_seg" in found[0]) == (family == "panoptic")


@pytest.mark.parametrize("family", ["retinanet", "mask-c4", "keypoint", "cascade"])
def test_an_image_may_have_no_instances_beside_one_that_has(zoo_model, family):
    model, images = zoo_model(family)
    images = two_sizes(images)
    best = [float(instances_of(x).scores.max()) for x in detector_of(model)(images)]
    for threshold, most in ((sum(best) / 2, 1), (2.0, 0)):
        for module in model.modules():
            if hasattr(module, "test_score_thresh"):
                module.test_score_thresh = threshold
        found = count(check(model, images))
        assert min(found) == 0 and (max(found) > 0) == bool(most)


def test_a_blendmask_may_find_nothing(registered, blendmask):
    model, images = blendmask("MODEL.PANOPTIC_FPN.COMBINE.ENABLED", False)
    model.proposal_generator.fcos_outputs.pre_nms_thresh_test = 2.0
    images = two_sizes(images)
    # AdelaiDet's masks of no instances are integers.
    found = [detector_of(model)(images), model(images)]
    assert [count(x) for x in found] == [[0, 0], [0, 0]]
    assert found[0][1]["instances"].pred_masks.shape == found[1][1]["instances"].pred_masks.shape


def test_the_scores_of_a_head_may_be_independent_of_each_other(zoo_model):
    model, images = zoo_model("mask-fpn")
    model.roi_heads.box_predictor.use_sigmoid_ce = True
    assert all(count(check(model, two_sizes(images))))


@pytest.mark.slow
@pytest.mark.parametrize("family", ["deeplab-v3", "deeplab-v3-plus"])
def test_a_deeplab_gives_the_same(overlay, family):
    cfg = small_projects.config_of(family)
    check(settled(cfg), two_sizes(images_of(cfg)))


@pytest.mark.parametrize("head", ["PointRendMaskHead", "PointRendSemSegHead"])
def test_a_head_that_decodes_in_its_own_way_is_named(overlay, head):
    family = {"PointRendMaskHead": "point-rend", "PointRendSemSegHead": "point-rend-semantic"}[head]
    model = settled(small_projects.config_of(family))
    with pytest.raises(DeployError, match=f"has a {head}, whose outputs cannot be decoded"):
        detector_of(model)


@pytest.mark.slow
@pytest.mark.parametrize("family", small_transformers.FAMILIES)
def test_a_transformer_gives_the_same_on_padded_squares(overlay, family):
    size = small_transformers.SIZE
    model = build_dense(small_transformers.config_of(family), size)
    few_regions(model)
    images = [{"image": 255 * torch.rand(3, size, size), "height": 70, "width": 80}] * 2
    found = check(model, two_sizes(images))
    assert all(count(found))


def test_the_fcos_of_detectron2_gives_the_same(overlay):
    config = small_lazy.fcos()
    model = settled(config)
    for module in model.modules():
        if hasattr(module, "test_score_thresh"):
            module.test_score_thresh = 0.01
    images = [{"image": 255 * torch.rand(3, 96, 96), "height": 90, "width": 80}] * 2
    assert all(count(check(model, two_sizes(images))))


def test_an_fcos_gives_the_same(registered):
    cfg = small_cfg("MODEL.META_ARCHITECTURE", "ProposalNetwork", "MODEL.FPN.OUT_CHANNELS", 64)
    images = [{"image": 255 * torch.rand(3, 96, 96), "height": 90, "width": 80}] * 2
    found = check(settled(cfg), two_sizes(images))
    assert all(count(found)) and "proposals" in found[0]
