"""Models under the overlay: PRUNE, FINETUNE, any channel count, and the early exit."""

import copy
import pickle

import pytest
import torch
from detectron2.checkpoint import DetectionCheckpointer
from detectron2.modeling import build_model
from detectron2.utils.events import EventStorage

import blendprune
from blendprune.errors import CheckpointError, ConfigError, StructError


def _results(model, images):
    with torch.no_grad():
        return [r["instances"] for r in model.eval()(_images(images))]


def _images(batch):
    # AdelaiDet's BlendMask takes instances for a sign of training, whatever its mode.
    return [{"image": x["image"]} for x in batch]


def _assert_equal_results(ours, theirs):
    assert sum(map(len, ours)) > 0
    for a, b in zip(ours, theirs, strict=True):
        assert torch.equal(a.pred_boxes.tensor, b.pred_boxes.tensor)
        assert torch.equal(a.scores, b.scores)
        assert torch.equal(a.pred_classes, b.pred_classes)
        assert torch.equal(a.pred_masks, b.pred_masks)


@pytest.fixture
def pruned(registered, pruned_blendmasks, tmp_path):
    """A small pruned BlendMask and its checkpoint, written by detectron2's checkpointer."""
    model = pruned_blendmasks("max_flops", 0.5)
    DetectionCheckpointer(model, str(tmp_path)).save("pruned")
    return model, str(tmp_path / "pruned.pth")


def test_the_overlay_changes_no_bit_of_a_dense_model(overlay, blendmask_cfg, training_batch):
    blendprune.revert()
    blendprune.modeling.register()
    plain = build_model(blendmask_cfg())
    with blendprune.applied():
        torch.manual_seed(0)
        patched = build_model(blendmask_cfg())
        assert list(patched.state_dict()) == list(plain.state_dict())
        patched.load_state_dict(plain.state_dict())
        batch = training_batch()
        ours, theirs = patched(batch), None
        found = _results(patched, batch)
    theirs = plain(batch)
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[key], theirs[key]) for key in ours)
    _assert_equal_results(found, _results(plain, batch))


def test_the_same_seed_gives_upstreams_weights(blendmask_cfg):
    blendprune.modeling.register()
    torch.manual_seed(3)
    plain = build_model(blendmask_cfg()).state_dict()
    with blendprune.applied():
        torch.manual_seed(3)
        patched = build_model(blendmask_cfg()).state_dict()
    assert all(torch.equal(plain[key], patched[key]) for key in plain)


@pytest.mark.parametrize("mean", [[100.0], [100.0, 110.0, 120.0, 130.0]])
def test_images_of_any_channel_count_train_and_run(registered, blendmask_cfg, training_batch, mean):
    cfg = blendmask_cfg("MODEL.PIXEL_MEAN", mean, "MODEL.PIXEL_STD", [1.0] * len(mean))
    model = build_model(cfg)
    batch = training_batch(channels=len(mean))
    sum(model(batch).values()).backward()
    assert len(_results(model, batch)) == 2


def test_a_model_can_be_pickled_and_copied(registered, blendmask_cfg, training_batch):
    model = build_model(blendmask_cfg())
    batch = training_batch()
    expected = _results(model, batch)
    _assert_equal_results(_results(pickle.loads(pickle.dumps(model)), batch), expected)
    _assert_equal_results(_results(copy.deepcopy(model), batch), expected)


def test_prune_makes_forward_leave_early_with_differentiable_outputs(registered, blendmask_cfg):
    model = build_model(blendmask_cfg("MODEL.PRUNE", True))
    assert model.model_prune is model.proposal_generator.model_prune is True
    outputs = model([{"image": torch.rand(3, 64, 64)}])
    assert {"logits", "reg", "ctrness", "top_feats", "bases", "basis_sem"} <= outputs.keys()
    sum(x.sum() for level in outputs.values() for x in level).backward()
    assert all(p.grad is not None for p in model.parameters())

    features = model.backbone(torch.rand(1, 3, 64, 64))
    heads, losses = model.proposal_generator(None, features, None, model.top_layer)
    assert losses == {}
    assert [x.shape[1] for x in heads["logits"]] == [3, 3]
    assert all(x.requires_grad for level in heads.values() for x in level)


def test_finetune_takes_the_widths_of_the_checkpoint(pruned, blendmask_cfg, training_batch):
    model, path = pruned
    cfg = blendmask_cfg("MODEL.FINETUNE", True, "MODEL.WEIGHTS", path)
    finetuned = build_model(cfg)
    assert finetuned.model_prune is finetuned.proposal_generator.model_prune is False
    assert finetuned.backbone.output_shape() == model.backbone.output_shape()
    DetectionCheckpointer(finetuned).load(path)
    batch = training_batch()
    _assert_equal_results(_results(finetuned, batch), _results(model, batch))
    before = copy.deepcopy(finetuned.state_dict())
    optimizer = torch.optim.SGD(finetuned.parameters(), lr=0.001)
    sum(finetuned.train()(batch).values()).backward()
    optimizer.step()
    assert any(not torch.equal(before[k], v) for k, v in finetuned.state_dict().items())


def test_finetuning_resumes_with_optimizer_and_iteration(pruned, blendmask_cfg, tmp_path):
    _, path = pruned
    cfg = blendmask_cfg("MODEL.FINETUNE", True, "MODEL.WEIGHTS", path)
    model = build_model(cfg)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    sum(p.sum() for p in model.parameters()).backward()
    optimizer.step()
    checkpointer = DetectionCheckpointer(model, str(tmp_path), optimizer=optimizer)
    checkpointer.save("model_0000001", iteration=1)

    resumed = build_model(cfg)
    other = torch.optim.SGD(resumed.parameters(), lr=0.1, momentum=0.9)
    checkpointer = DetectionCheckpointer(resumed, str(tmp_path), optimizer=other)
    assert checkpointer.resume_or_load(path, resume=True)["iteration"] == 1
    ours, theirs = resumed.state_dict(), model.state_dict()
    assert all(torch.equal(ours[key], theirs[key]) for key in theirs)
    assert other.state_dict()["state"].keys() == optimizer.state_dict()["state"].keys()


def test_the_basis_loss_follows_the_config_whatever_the_checkpoint_had(
    pruned, blendmask_cfg, training_batch
):
    _, path = pruned
    cfg = blendmask_cfg("MODEL.FINETUNE", True, "MODEL.WEIGHTS", path)
    cfg.MODEL.BASIS_MODULE.LOSS_ON = False
    model = build_model(cfg)
    assert model.basis_module.loss_on is False
    assert "loss_basis_sem" not in model(training_batch())


def test_the_basis_loss_needs_a_checkpoint_with_its_head(registered, blendmask_cfg, tmp_path):
    model = build_model(blendmask_cfg("MODEL.BASIS_MODULE.LOSS_ON", False))
    DetectionCheckpointer(model, str(tmp_path)).save("model")
    path = str(tmp_path / "model.pth")
    with pytest.raises(StructError, match="fine-tune with MODEL.BASIS_MODULE.LOSS_ON False"):
        build_model(blendmask_cfg("MODEL.FINETUNE", True, "MODEL.WEIGHTS", path))


def test_frozen_norms_become_trainable_ones(registered, blendmask_cfg, training_batch, tmp_path):
    model = build_model(blendmask_cfg("MODEL.RESNETS.NORM", "FrozenBN"))
    blendprune.prune(model, pruning_ratio=0.3, importance="magnitude", rounds=1)
    DetectionCheckpointer(model, str(tmp_path)).save("pruned")
    path = str(tmp_path / "pruned.pth")
    finetuned = build_model(blendmask_cfg("MODEL.FINETUNE", True, "MODEL.WEIGHTS", path))
    DetectionCheckpointer(finetuned).load(path)
    for ours, theirs in zip(
        _results(finetuned, training_batch()), _results(model, training_batch()), strict=True
    ):
        assert torch.allclose(ours.scores, theirs.scores, atol=1e-5)


def test_a_pruned_checkpoint_in_a_dense_model_is_refused(pruned, blendmask_cfg):
    _, path = pruned
    dense = build_model(blendmask_cfg())
    before = copy.deepcopy(dense.state_dict())
    with pytest.raises(CheckpointError, match="set MODEL.FINETUNE True and MODEL.WEIGHTS"):
        DetectionCheckpointer(dense).load(path)
    assert all(torch.equal(before[key], value) for key, value in dense.state_dict().items())


def test_after_a_refused_checkpoint_another_can_be_loaded(pruned, blendmask_cfg, tmp_path):
    _, path = pruned
    checkpointer = DetectionCheckpointer(build_model(blendmask_cfg()), str(tmp_path))
    checkpointer.save("dense")
    for _ in range(2):
        with pytest.raises(CheckpointError, match="set MODEL.FINETUNE True"):
            checkpointer.load(path)
    checkpointer.load(str(tmp_path / "dense.pth"))


def test_a_dense_checkpoint_with_other_classes_loads_as_upstream_does(
    registered, blendmask_cfg, tmp_path
):
    DetectionCheckpointer(build_model(blendmask_cfg()), str(tmp_path)).save("dense")
    other = build_model(blendmask_cfg("MODEL.FCOS.NUM_CLASSES", 5))
    DetectionCheckpointer(other).load(str(tmp_path / "dense.pth"))
    assert other.proposal_generator.fcos_head.cls_logits.weight.shape[0] == 5


def test_a_pruned_blendmask_is_fine_tuned_on_other_classes(pruned, blendmask_cfg, training_batch):
    _, path = pruned
    opts = ("MODEL.FCOS.NUM_CLASSES", 5, "MODEL.BASIS_MODULE.NUM_CLASSES", 5)
    model = build_model(blendmask_cfg(*opts, "MODEL.FINETUNE", True, "MODEL.WEIGHTS", path))
    DetectionCheckpointer(model).load(path)
    heads = ("basis_module.seg_head.", "proposal_generator.fcos_head.cls_logits.")
    theirs = torch.load(path)["model"]
    ours = {name: weight.clone() for name, weight in model.state_dict().items()}
    changed = {name for name in ours if ours[name].shape != theirs[name].shape}
    assert {name for name in changed if name.startswith(heads)} == changed
    assert len(changed) == 4  # weight and bias of both
    assert all(torch.equal(ours[name], theirs[name]) for name in ours.keys() - changed)

    batch = training_batch()
    for image in batch:
        image["instances"].gt_classes[:] = 4
        image["basis_sem"][image["basis_sem"] > 0] = 5
    with EventStorage():
        sum(model.train()(batch).values()).backward()
    assert all(p.grad.abs().sum() > 0 for name, p in model.named_parameters() if name in changed)


def test_finetune_without_weights_is_refused(registered, blendmask_cfg):
    with pytest.raises(ConfigError, match="finetuning model need a model file!"):
        build_model(blendmask_cfg("MODEL.FINETUNE", True))


def test_finetune_of_other_weights_without_struct_is_refused(registered, blendmask_cfg, tmp_path):
    path = str(tmp_path / "backbone.pth")
    torch.save({"model": build_model(blendmask_cfg()).backbone.state_dict()}, path)
    with pytest.raises(StructError, match='has no "struct", and its weights lack'):
        build_model(blendmask_cfg("MODEL.FINETUNE", True, "MODEL.WEIGHTS", path))


def test_finetune_with_the_struct_of_another_architecture_is_refused(pruned, blendmask_cfg):
    _, path = pruned
    checkpoint = torch.load(path)
    checkpoint["struct"]["meta_architecture"] = "GeneralizedRCNN"
    torch.save(checkpoint, path)
    with pytest.raises(StructError, match="is of a GeneralizedRCNN, but the model is a BlendMask"):
        build_model(blendmask_cfg("MODEL.FINETUNE", True, "MODEL.WEIGHTS", path))


def test_finetune_with_another_depth_is_refused(pruned, blendmask_cfg):
    _, path = pruned
    cfg = blendmask_cfg("MODEL.FINETUNE", True, "MODEL.WEIGHTS", path, "MODEL.RESNETS.DEPTH", 34)
    with pytest.raises(StructError, match="build the model from the config"):
        build_model(cfg)


def test_prune_and_finetune_together_are_refused(registered, blendmask_cfg):
    cfg = blendmask_cfg("MODEL.PRUNE", True, "MODEL.FINETUNE", True, "MODEL.WEIGHTS", "x.pth")
    with pytest.raises(ConfigError, match="both set: prune first"):
        build_model(cfg)


@pytest.mark.parametrize("key", ["PRUNE", "FINETUNE"])
def test_flags_that_are_not_booleans_are_refused(registered, blendmask_cfg, key):
    cfg = blendmask_cfg()
    cfg.MODEL[key] = "yes"
    with pytest.raises(ConfigError, match=f"MODEL.{key} is 'yes': set it to True or False"):
        build_model(cfg)


def test_weights_may_be_any_path_manager_address(pruned, blendmask_cfg, tmp_path):
    from detectron2.utils.file_io import PathManager
    from iopath.common.file_io import PathHandler

    class Shelf(PathHandler):
        def _get_supported_prefixes(self):
            return ["shelf://"]

        def _get_local_path(self, path, force=False, **kwargs):
            return str(tmp_path / path[len("shelf://") :])

        def _isfile(self, path, **kwargs):
            return True

        def _open(self, path, mode="r", buffering=-1, **kwargs):
            return open(self._get_local_path(path), mode)

    PathManager.register_handler(Shelf(), allow_override=True)
    cfg = blendmask_cfg("MODEL.FINETUNE", True, "MODEL.WEIGHTS", "shelf://pruned.pth")
    assert build_model(cfg).backbone.output_shape() == pruned[0].backbone.output_shape()


def test_a_panoptic_model_is_pruned_and_finetuned(
    registered, blendmask_cfg, training_batch, tmp_path
):
    opts = [
        "MODEL.PANOPTIC_FPN.COMBINE.ENABLED", True,
        "MODEL.SEM_SEG_HEAD.IN_FEATURES", ["p3", "p4"],
        "MODEL.SEM_SEG_HEAD.COMMON_STRIDE", 8,
        "MODEL.SEM_SEG_HEAD.NUM_CLASSES", 5,
        "MODEL.SEM_SEG_HEAD.CONVS_DIM", 32,
    ]  # fmt: skip
    model = build_model(blendmask_cfg(*opts))
    blendprune.prune(model, pruning_ratio=0.3, importance="magnitude", rounds=1)
    DetectionCheckpointer(model, str(tmp_path)).save("pruned")
    path = str(tmp_path / "pruned.pth")
    finetuned = build_model(blendmask_cfg(*opts, "MODEL.FINETUNE", True, "MODEL.WEIGHTS", path))
    DetectionCheckpointer(finetuned).load(path)
    batch = training_batch()
    with torch.no_grad():
        ours, theirs = finetuned.eval()(_images(batch)), model.eval()(_images(batch))
    assert torch.equal(ours[0]["sem_seg"], theirs[0]["sem_seg"])
    assert torch.equal(ours[0]["panoptic_seg"][0], theirs[0]["panoptic_seg"][0])
    for image in batch:
        image["sem_seg"] = image["basis_sem"]
    losses = finetuned.train()(batch)
    assert "loss_sem_seg" in losses
    sum(losses.values()).backward()


def test_other_architectures_leave_early_under_prune(overlay, retinanet_cfg):
    model = build_model(retinanet_cfg("MODEL.PRUNE", True))
    outputs = model([{"image": torch.rand(3, 64, 64)}])
    assert all(isinstance(x, torch.Tensor) and x.requires_grad for x in outputs)
    sum(x.sum() for x in outputs).backward()
    assert model.training and model.model_prune
    dense = build_model(retinanet_cfg())
    with torch.no_grad():
        assert "instances" in dense.eval()([{"image": torch.rand(3, 64, 64)}])[0]
    blendprune.revert()
    model.eval()
    with torch.no_grad():
        assert "instances" in model([{"image": torch.rand(3, 64, 64)}])[0]


def test_other_architectures_are_pruned_and_finetuned(overlay, retinanet_cfg, tmp_path):
    model = build_model(retinanet_cfg("MODEL.PRUNE", True))
    blendprune.prune(model, max_flops=0.5, importance="magnitude", rounds=1)
    DetectionCheckpointer(model, str(tmp_path)).save("pruned")
    path = str(tmp_path / "pruned.pth")
    finetuned = build_model(retinanet_cfg("MODEL.FINETUNE", True, "MODEL.WEIGHTS", path))
    DetectionCheckpointer(finetuned).load(path)
    model.model_prune = False
    image = [{"image": torch.rand(3, 64, 64) * 255}]
    with torch.no_grad():
        ours, theirs = finetuned.eval()(image)[0], model.eval()(image)[0]
    assert len(theirs["instances"]) > 0
    assert torch.equal(ours["instances"].scores, theirs["instances"].scores)


def test_a_config_of_another_kind_builds_what_upstream_builds(overlay, retinanet_cfg, tmp_path):
    from omegaconf import OmegaConf

    image = [{"image": torch.rand(3, 64, 64) * 255}]
    cfg = retinanet_cfg()
    torch.manual_seed(0)
    expected = build_model(cfg).eval()(image)[0]["instances"]
    torch.manual_seed(0)
    model = build_model(OmegaConf.create(cfg.dump()))
    found = model.eval()(image)[0]["instances"]
    assert len(found) > 0 and torch.equal(found.scores, expected.scores)
    DetectionCheckpointer(model, str(tmp_path)).save("model")
    assert torch.load(tmp_path / "model.pth")["struct"]["config"] == ""


def test_a_config_without_the_overlays_keys_builds(overlay):
    from types import SimpleNamespace

    from detectron2.modeling import META_ARCH_REGISTRY

    META_ARCH_REGISTRY._obj_map["Tiny"] = lambda cfg: torch.nn.Linear(1, cfg.WIDTH)
    try:
        node = SimpleNamespace(META_ARCHITECTURE="Tiny", DEVICE="cpu")
        assert build_model(cfg=SimpleNamespace(MODEL=node, WIDTH=3)).out_features == 3
        with pytest.raises(TypeError, match="cfg"):
            build_model()
    finally:
        del META_ARCH_REGISTRY._obj_map["Tiny"]


def test_a_file_saved_from_another_kind_of_config_finetunes(overlay, retinanet_cfg, tmp_path):
    from omegaconf import OmegaConf

    model = build_model(OmegaConf.create(retinanet_cfg().dump()))
    image = [{"image": torch.rand(3, 64, 64)}]
    blendprune.prune(model, image, pruning_ratio=0.3, importance="magnitude", rounds=1)
    DetectionCheckpointer(model, str(tmp_path)).save("pruned")
    path = str(tmp_path / "pruned.pth")
    cfg = retinanet_cfg("MODEL.FINETUNE", True, "MODEL.WEIGHTS", path)
    for each in (cfg, OmegaConf.create(cfg.dump())):
        again = build_model(each)
        DetectionCheckpointer(again).load(path)
        assert again.backbone.output_shape() == model.backbone.output_shape()


def test_a_detector_of_blocks_with_a_forward_of_their_own_is_pruned(
    overlay, retinanet_cfg, training_batch, tmp_path
):
    from detectron2.modeling import BACKBONE_REGISTRY, ResNet
    from detectron2.modeling.backbone.fpn import FPN, LastLevelP6P7
    from detectron2.modeling.backbone.resnet import BasicStem
    from detectron2.utils.events import EventStorage

    from tests.helpers.se_block import SEBasicBlock

    def build_se_backbone(cfg, shape):
        kinds = [(8, 16), (16, 32), (32, 64)]
        stages = [[SEBasicBlock(*kind, stride=2, norm="BN")] for kind in kinds]
        body = ResNet(BasicStem(3, 8, norm="BN"), stages, out_features=["res2", "res3", "res4"])
        return FPN(body, ["res2", "res3", "res4"], 32, top_block=LastLevelP6P7(64, 32, "res4"))

    BACKBONE_REGISTRY._obj_map["build_se_backbone"] = build_se_backbone
    try:
        cfg = retinanet_cfg("MODEL.BACKBONE.NAME", "build_se_backbone")
        cfg.MODEL.RETINANET.IN_FEATURES = ["p3", "p4", "p5", "p6", "p7"]
        model = build_model(cfg)
        blocks = [m for m in model.modules() if isinstance(m, SEBasicBlock)]
        assert all(block.conv1.norm is not None for block in blocks)
        blendprune.prune(model, max_flops=0.5, importance="magnitude", rounds=1)
        for block in blocks:
            assert block.conv1.norm.num_features == block.conv1.out_channels
            assert block.se[3].out_channels == block.conv2.out_channels == block.out_channels
        assert blocks[1].conv1.out_channels < 32

        with EventStorage():
            sum(model.train()(training_batch()).values()).backward()
        assert all(p.grad is not None for p in model.parameters())
        torch.optim.SGD(model.parameters(), 0.001).step()
        DetectionCheckpointer(model, str(tmp_path)).save("pruned")
        path = str(tmp_path / "pruned.pth")
        image = [{"image": torch.rand(3, 64, 64) * 255}]
        with torch.no_grad():
            expected = model.eval()(image)[0]["instances"].scores
            assert torch.equal(blendprune.load(path)(image)[0]["instances"].scores, expected)
            finetuned = build_model(
                retinanet_cfg(
                    *("MODEL.BACKBONE.NAME", "build_se_backbone"),
                    *("MODEL.FINETUNE", True, "MODEL.WEIGHTS", path),
                    *("MODEL.RETINANET.IN_FEATURES", ["p3", "p4", "p5", "p6", "p7"]),
                )
            )
            DetectionCheckpointer(finetuned).load(path)
            assert torch.equal(finetuned.eval()(image)[0]["instances"].scores, expected)
        assert len(expected) > 0
    finally:
        del BACKBONE_REGISTRY._obj_map["build_se_backbone"]
