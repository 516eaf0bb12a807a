"""Our BlendMask against AdelaiDet's: names, initial weights, losses, gradients, results."""

import pytest
import torch
from detectron2.structures import ImageList

from blendprune.modeling.blendmask_config import add_blendmask_config
from tests.helpers.small_blendmask import PANOPTIC, build_ours, empty_input, inputs, small_cfg

TOLERANCE = {"rtol": 1e-4, "atol": 1e-5}
SHARED = (
    *("MODEL.FCOS.NUM_SHARE_CONVS", 2),
    *("MODEL.FCOS.NUM_CLS_CONVS", 0),
    *("MODEL.FCOS.NUM_BOX_CONVS", 0),
)

VARIANTS = {
    "plain": (),
    "no extra levels": ("MODEL.FCOS.TOP_LEVELS", 0),
    "one extra level, shared towers": ("MODEL.FCOS.TOP_LEVELS", 1, *SHARED),
    "naive group norm": ("MODEL.FCOS.NORM", "NaiveGN"),
    "batch norm per level": ("MODEL.FCOS.NORM", "BN"),
    "synced batch norm per level": ("MODEL.FCOS.NORM", "SyncBN"),
    "no norm, no scale": ("MODEL.FCOS.NORM", "none", "MODEL.FCOS.USE_SCALE", False),
    "score with centerness": ("MODEL.FCOS.THRESH_WITH_CTR", True),
    "no center sampling": ("MODEL.FCOS.CENTER_SAMPLE", False),
    "moving foreground": ("MODEL.FCOS.LOSS_NORMALIZER_CLS", "moving_fg"),
    "all locations": ("MODEL.FCOS.LOSS_NORMALIZER_CLS", "all", "MODEL.FCOS.LOSS_WEIGHT_CLS", 2.0),
    "iou loss": ("MODEL.FCOS.LOC_LOSS_TYPE", "iou"),
    "linear iou loss": ("MODEL.FCOS.LOC_LOSS_TYPE", "linear_iou"),
    "no basis loss": ("MODEL.BASIS_MODULE.LOSS_ON", False),
    "basis with group norm": ("MODEL.BASIS_MODULE.NORM", "GN", "MODEL.BASIS_MODULE.CONVS_DIM", 32),
    "basis with neither norm nor bias": ("MODEL.BASIS_MODULE.NORM", ""),
    "proposals in training": (
        *("MODEL.FCOS.YIELD_PROPOSAL", True),
        *("MODEL.FCOS.YIELD_BOX_FEATURES", True),
        *("MODEL.FCOS.INFERENCE_TH_TRAIN", 0.001),
    ),
    "few candidates": (
        *("MODEL.FCOS.PRE_NMS_TOPK_TEST", 20),
        *("MODEL.FCOS.POST_NMS_TOPK_TEST", 15),
    ),
    "no nms": ("MODEL.FCOS.NMS_TH", 0.0),
    "nearest attention": ("MODEL.BLENDMASK.TOP_INTERP", "nearest"),
    "panoptic": PANOPTIC,
    "fpn norm and average": ("MODEL.FPN.NORM", "BN", "MODEL.FPN.FUSE_TYPE", "avg"),
    "R-34": ("MODEL.RESNETS.DEPTH", 34),
}


@pytest.fixture(params=VARIANTS, scope="module")
def pair(request, upstream):
    """Both models of one variant, each built from the same seed, and the config."""
    return _pair(upstream, small_cfg(*VARIANTS[request.param]))


def _pair(upstream, cfg):
    torch.manual_seed(0)
    with upstream():
        from adet.modeling.blendmask import BlendMask

        theirs = BlendMask(cfg)
    return theirs, build_ours(cfg), cfg


def _liven(model):
    # Freshly drawn heads say nearly nothing, and zero differences would prove nothing.
    generator = torch.Generator().manual_seed(1)
    for parameter in model.parameters():
        parameter.data.add_(torch.randn(parameter.shape, generator=generator) * 0.02)
    model.proposal_generator.fcos_head.bbox_pred.bias.data.fill_(2.0)


def _batch():
    return [*inputs((64, 96), (80, 48)), empty_input((64, 64))]


def _assert_same_results(ours, theirs):
    assert len(ours) == len(theirs)
    for mine, their in zip(ours, theirs, strict=True):
        assert mine.keys() == their.keys()
        a, b = mine["instances"], their["instances"]
        assert len(a) == len(b)
        assert a.get_fields().keys() == b.get_fields().keys()
        torch.testing.assert_close(a.pred_boxes.tensor, b.pred_boxes.tensor, **TOLERANCE)
        torch.testing.assert_close(a.scores, b.scores, **TOLERANCE)
        assert torch.equal(a.pred_classes, b.pred_classes)
        assert (a.pred_masks != b.pred_masks).float().mean() < 1e-4
        if "panoptic_seg" in mine:
            torch.testing.assert_close(mine["sem_seg"], their["sem_seg"], **TOLERANCE)
            assert torch.equal(mine["panoptic_seg"][0], their["panoptic_seg"][0])
            assert _rounded(mine["panoptic_seg"][1]) == _rounded(their["panoptic_seg"][1])


def _rounded(segments):
    return [{k: round(v, 4) if k == "score" else v for k, v in s.items()} for s in segments]


def test_the_same_seed_draws_the_same_weights_under_the_same_names(pair):
    theirs, ours, _ = pair
    assert list(ours.state_dict()) == list(theirs.state_dict())
    for name, value in theirs.state_dict().items():
        assert torch.equal(ours.state_dict()[name], value), name


def test_losses_and_gradients_agree(pair):
    theirs, ours, _ = pair
    _liven(theirs)
    ours.load_state_dict(theirs.state_dict(), strict=True)
    losses = []
    for model in (theirs, ours):
        model.train()
        model.zero_grad()
        losses.append(model(_batch()))
        sum(losses[-1].values()).backward()
    assert losses[0].keys() == losses[1].keys()
    assert losses[0]["loss_mask"] > 0
    for name, value in losses[0].items():
        torch.testing.assert_close(losses[1][name], value, **TOLERANCE)
    for (name, a), b in zip(theirs.named_parameters(), ours.parameters(), strict=True):
        assert (a.grad is None) == (b.grad is None), name
        if a.grad is not None:
            scale = a.grad.abs().max().clamp(min=1e-6)
            assert (a.grad - b.grad).abs().max() / scale < 1e-3, name


def test_results_agree(pair):
    theirs, ours, _ = pair
    _liven(theirs)
    ours.load_state_dict(theirs.state_dict(), strict=True)
    batch = [{k: v for k, v in x.items() if k != "instances"} for x in _batch()]
    with torch.no_grad():
        results = [model.eval()(batch) for model in (ours, theirs)]
    assert sum(len(x["instances"]) for x in results[1]) > 0
    _assert_same_results(*results)


@pytest.mark.parametrize("depth", [50, 101])
@pytest.mark.parametrize("levels", [0, 1, 2])
def test_deep_models_have_the_same_names_and_shapes(upstream, depth, levels):
    options = ("MODEL.RESNETS.DEPTH", depth, "MODEL.FCOS.TOP_LEVELS", levels)
    theirs, ours, _ = _pair(upstream, small_cfg(*options))
    ours.load_state_dict(theirs.state_dict(), strict=True)
    theirs.load_state_dict(ours.state_dict(), strict=True)
    assert list(ours.state_dict()) == list(theirs.state_dict())


def test_boxes_that_learn_iou_have_the_same_losses(upstream):
    # AdelaiDet's blender stops at this setting in training, so FCOS is compared by itself.
    theirs, ours, _ = _pair(upstream, small_cfg("MODEL.FCOS.BOX_QUALITY", "iou"))
    _liven(theirs)
    ours.load_state_dict(theirs.state_dict(), strict=True)
    losses = []
    for model in (theirs, ours):
        batch = inputs((64, 96), (64, 96))
        features = model.backbone(torch.stack([x["image"] for x in batch]) / 100)
        targets = [x["instances"] for x in batch]
        losses.append(model.proposal_generator(None, features, targets, model.top_layer)[1])
    assert losses[0].keys() == losses[1].keys() and losses[0]["loss_fcos_iou"] > 0
    for name, value in losses[0].items():
        torch.testing.assert_close(losses[1][name], value, **TOLERANCE)


def test_training_proposals_and_positive_locations_agree(upstream):
    options = VARIANTS["proposals in training"]
    theirs, ours, _ = _pair(upstream, small_cfg(*options))
    _liven(theirs)
    ours.load_state_dict(theirs.state_dict(), strict=True)
    extras = []
    for model in (theirs, ours):
        batch = [*inputs((64, 96)), empty_input((64, 96)), *inputs((64, 96), seed=1)]
        tensor = torch.stack([x["image"] for x in batch]) / 100
        images = ImageList(tensor, [(64, 96)] * 3)
        targets = [x["instances"] for x in batch]
        extras.append(
            model.proposal_generator(images, model.backbone(tensor), targets, model.top_layer)[0]
        )
    theirs, ours = extras
    assert theirs.keys() == ours.keys()
    assert theirs["loss_denorm"] == pytest.approx(ours["loss_denorm"])
    assert len(theirs["instances"]) > 0
    for name, value in theirs["instances"].get_fields().items():
        torch.testing.assert_close(ours["instances"].get(name), value, **TOLERANCE)
    for a, b in zip(theirs["proposals"], ours["proposals"], strict=True):
        assert len(a) > 0
        for name in ("scores", "pred_classes", "locations", "fpn_levels", "top_feat"):
            torch.testing.assert_close(b.get(name), a.get(name), **TOLERANCE)
    for name, value in theirs["box_feats"].items():
        torch.testing.assert_close(ours["box_feats"][name], value, **TOLERANCE)


def test_what_visualize_shows_agrees(upstream):
    options = ("MODEL.BLENDMASK.VISUALIZE", True, "MODEL.FCOS.TOP_LEVELS", 1)
    theirs, ours, _ = _pair(upstream, small_cfg(*options))
    ours.load_state_dict(theirs.state_dict(), strict=True)
    batch = inputs((64, 96))
    del batch[0]["instances"]
    with torch.no_grad():
        a, b = (model.eval()(batch)[0] for model in (theirs, ours))
    torch.testing.assert_close(b["sem_thing_seg"], a["sem_thing_seg"], **TOLERANCE)
    torch.testing.assert_close(b["bases"], a["bases"], **TOLERANCE)


def test_every_key_of_ours_has_upstreams_default(upstream):
    from adet.config import get_cfg as their_cfg

    class Recorder(dict):
        """Takes keys as a CfgNode does, and starts from nothing."""

        def __getattr__(self, key):
            return self.setdefault(key, Recorder())

    ours = Recorder()
    add_blendmask_config(ours)

    def compare(mine, their, path):
        for key, value in mine.items():
            if isinstance(value, dict):
                compare(value, their[key], f"{path}.{key}")
            else:
                assert their[key] == value and type(their[key]) is type(value), f"{path}.{key}"

    compare(ours, their_cfg(), "")
