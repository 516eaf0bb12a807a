"""Our BlendMask by itself: shapes, training, odd inputs, copying and pickling."""

import copy
import pickle

import pytest
import torch

from blendprune.errors import ConfigError
from blendprune.modeling.normalizer import Normalizer
from tests.helpers.small_blendmask import PANOPTIC, build_ours, empty_input, inputs, small_cfg


def _test_input(batch):
    return [{k: v for k, v in x.items() if k in ("image", "height", "width")} for x in batch]


def test_results_have_the_size_that_was_asked_for():
    model = build_ours(small_cfg()).eval()
    with torch.no_grad():
        results = model(_test_input(inputs((64, 96), (80, 48))))
    for result, size in zip(results, [(128, 103), (160, 55)], strict=True):
        found = result["instances"]
        assert len(found) > 0 and found.image_size == size
        assert found.pred_masks.shape == (len(found), *size)
        assert len(found.pred_boxes) == len(found.scores) == len(found.pred_classes)


def test_a_few_training_steps_lower_the_loss():
    model = build_ours(small_cfg("MODEL.RESNETS.NORM", "BN", "MODEL.BACKBONE.FREEZE_AT", 0))
    batch = inputs((64, 96), (64, 96))
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    totals = []
    for _ in range(8):
        loss = sum(model(batch).values())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        totals.append(loss.item())
    assert totals[-1] < 0.8 * totals[0]


def test_every_trainable_weight_gets_a_gradient():
    model = build_ours(small_cfg(*PANOPTIC))
    sum(model(inputs((64, 96), (64, 96))).values()).backward()
    missing = [n for n, p in model.named_parameters() if p.requires_grad and p.grad is None]
    assert missing == []


def test_a_batch_without_any_instance_trains_and_reaches_every_weight():
    model = build_ours(small_cfg())
    losses = model([empty_input((64, 96)), empty_input((64, 64))])
    assert losses["loss_mask"] == 0 and losses["loss_fcos_loc"] == 0
    assert torch.isfinite(sum(losses.values()))
    sum(losses.values()).backward()
    assert model.top_layer.weight.grad is not None
    missing = [n for n, p in model.named_parameters() if p.requires_grad and p.grad is None]
    assert missing == []


def test_an_image_with_no_detection_gives_empty_results():
    model = build_ours(small_cfg("MODEL.FCOS.INFERENCE_TH_TEST", 0.99)).eval()
    with torch.no_grad():
        result = model(_test_input(inputs((64, 96), (64, 64))))[0]["instances"]
    assert len(result) == 0 and result.pred_masks.shape == (0, 128, 103)


def test_training_input_is_accepted_in_inference():
    model = build_ours(small_cfg()).eval()
    batch = inputs((64, 96), (64, 64))
    with torch.no_grad():
        full, bare = model(batch), model(_test_input(batch))
    assert torch.equal(full[0]["instances"].scores, bare[0]["instances"].scores)


def test_the_panoptic_branch_gives_segments():
    model = build_ours(small_cfg(*PANOPTIC)).eval()
    with torch.no_grad():
        result = model(_test_input(inputs((64, 96), (64, 64))))[0]
    assert result["sem_seg"].shape == (6, 128, 103)
    segments, info = result["panoptic_seg"]
    assert segments.shape == (128, 103) and len(info) > 0


@pytest.mark.parametrize("channels", [1, 4])
def test_images_of_any_channel_count_work(channels):
    means = ("MODEL.PIXEL_MEAN", [100.0] * channels, "MODEL.PIXEL_STD", [50.0] * channels)
    model = build_ours(small_cfg(*means))
    batch = inputs((64, 96), (64, 64), channels=channels)
    assert torch.isfinite(sum(model(batch).values()))
    assert model.backbone.bottom_up.stem.conv1.in_channels == channels


def test_deformable_towers_train_on_cpu_under_upstreams_names():
    model = build_ours(small_cfg("MODEL.FCOS.USE_DEFORMABLE", True))
    sum(model(inputs((64, 96), (64, 64))).values()).backward()
    shapes = {k: tuple(v.shape) for k, v in model.proposal_generator.fcos_head.state_dict().items()}
    assert shapes["cls_tower.0.offset.weight"] == (27, 32, 3, 3)
    assert shapes["cls_tower.0.offset.bias"] == (27,)
    assert shapes["cls_tower.0.conv.weight"] == (32, 32, 3, 3)
    assert shapes["cls_tower.0.conv.bias"] == (32,)
    assert model.proposal_generator.fcos_head.bbox_tower[0].offset.weight.grad is not None


def test_a_deep_copy_and_a_pickled_copy_give_the_same_results():
    model = build_ours(small_cfg()).eval()
    batch = _test_input(inputs((64, 96)))
    batch.append(_test_input(inputs((64, 64)))[0])
    with torch.no_grad():
        expected = model(batch)[0]["instances"]
        for twin in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
            found = twin(batch)[0]["instances"]
            assert torch.equal(found.scores, expected.scores)
            assert torch.equal(found.pred_masks, expected.pred_masks)


def test_a_normalizer_survives_pickling():
    before = Normalizer([1.0, 2, 3, 4], [2.0] * 4, "cpu")
    after = pickle.loads(pickle.dumps(before))
    x = torch.rand(4, 5, 6)
    assert torch.equal(after(x), before(x)) and after(x).shape == x.shape
    assert torch.allclose(after(x)[3], (x[3] - 4) / 2)
    assert repr(after) == repr(before)


def test_each_level_has_a_norm_of_its_own():
    head = build_ours(small_cfg("MODEL.FCOS.NORM", "BN")).proposal_generator.fcos_head
    dial = head.cls_tower[1]
    maps = [torch.randn(2, 32, 4, 4) * 100**level for level in range(5)]
    for _ in range(2):
        head(maps)
        assert dial.cur_position == 0
    assert [norm.num_batches_tracked.item() for norm in dial] == [2] * 5
    spreads = [norm.running_var.mean().item() for norm in dial]
    assert spreads == sorted(spreads) and len(set(spreads)) == 5


def test_unreadable_settings_are_refused_in_one_sentence():
    for options, words in (
        (("MODEL.FCOS.NORM", "LN"), "MODEL.FCOS.NORM is 'LN'"),
        (("MODEL.FCOS.BOX_QUALITY", "best"), "MODEL.FCOS.BOX_QUALITY is 'best'"),
        (("MODEL.FCOS.LOC_LOSS_TYPE", "l1"), "MODEL.FCOS.LOC_LOSS_TYPE is 'l1'"),
        (("MODEL.FCOS.LOSS_NORMALIZER_CLS", "x"), "MODEL.FCOS.LOSS_NORMALIZER_CLS is 'x'"),
        (("MODEL.FCOS.TOP_LEVELS", 3), "MODEL.FCOS.TOP_LEVELS is 3"),
        (("MODEL.MOBILENET", True), "only AdelaiDet has"),
        (("MODEL.BACKBONE.ANTI_ALIAS", True), "only AdelaiDet has"),
        (("MODEL.RESNETS.DEFORM_INTERVAL", 3), "only AdelaiDet has"),
    ):
        with pytest.raises(ConfigError, match=words):
            build_ours(small_cfg(*options))


def test_the_basis_loss_without_labels_names_the_mapper():
    batch = inputs((64, 96), (64, 64))
    for x in batch:
        del x["basis_sem"]
    with pytest.raises(ConfigError, match="DatasetMapperWithBasis"):
        build_ours(small_cfg())(batch)


def test_iou_quality_works_in_inference_and_is_refused_in_training():
    model = build_ours(small_cfg("MODEL.FCOS.BOX_QUALITY", "iou"))
    batch = inputs((64, 96), (64, 64))
    with pytest.raises(ConfigError, match="BOX_QUALITY"):
        model(batch)
    with torch.no_grad():
        assert len(model.eval()(_test_input(batch))[0]["instances"]) > 0
