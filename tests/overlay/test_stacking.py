"""Patches of others below and above the overlay's: methods, functions and config keys."""

import functools
import sys
import types

import pytest
import torch
import torch.nn.functional as F
import wrapt
from detectron2.checkpoint import DetectionCheckpointer
from detectron2.config.defaults import _C
from detectron2.engine import DefaultTrainer
from detectron2.modeling.backbone.resnet import BasicBlock

import blendprune
from blendprune import overlay
from blendprune.errors import UpstreamDrift

HERE = "test_stacking.py:"


@pytest.fixture(autouse=True)
def restored(monkeypatch):
    """Imports every target, and drops what a test leaves in upstream."""
    overlay.import_targets()
    places = [(BasicBlock, ("__init__", "forward")), (DefaultTrainer, ("build_hooks",))]
    saved = [(owner, {name: vars(owner)[name] for name in names}) for owner, names in places]
    yield
    blendprune.revert()
    for owner, names in saved:
        for name, value in names.items():
            setattr(owner, name, value)
    vars(DetectionCheckpointer).get("save") and delattr(DetectionCheckpointer, "save")


def _row(name):
    (row,) = [row for row in blendprune.status() if row.name == name]
    return row


def _block():
    torch.manual_seed(0)
    block = BasicBlock(4, 8).eval()
    for norm in (m for m in block.modules() if isinstance(m, torch.nn.BatchNorm2d)):
        norm.running_mean.fill_(0.1)
        norm.running_var.fill_(0.5)
    return block


X = torch.rand(1, 4, 8, 8)


def _counting(original, calls):
    def foreign(*args, **kwargs):
        calls.append(args[0])
        return original(*args, **kwargs)

    return foreign


def _counting_wraps(original, calls):
    return functools.wraps(original)(_counting(original, calls))


def _counting_wrapt(original, calls):
    def foreign(wrapped, instance, args, kwargs):
        calls.append(instance)
        return wrapped(*args, **kwargs)

    return wrapt.FunctionWrapper(original, foreign)


KINDS = [_counting, _counting_wraps, _counting_wrapt]


@pytest.mark.parametrize("kind", KINDS)
def test_a_forward_patched_before_is_drift_that_names_it(kind):
    foreign = BasicBlock.forward = kind(BasicBlock.forward, [])
    before = dict(vars(BasicBlock))
    with pytest.raises(UpstreamDrift) as error:
        blendprune.apply()
    for part in ("BasicBlock.forward is patched by", "foreign", HERE, "before that patch", "warn"):
        assert part in str(error.value)
    assert dict(vars(BasicBlock)) == before
    assert overlay.drift_policy() is None
    assert foreign is vars(BasicBlock)["forward"]


@pytest.mark.parametrize("kind", KINDS)
def test_a_forward_patched_before_stays_if_drift_is_accepted(kind):
    calls = []
    expected = _block()(X)
    BasicBlock.forward = kind(BasicBlock.forward, calls)
    before = dict(vars(BasicBlock))
    with pytest.warns(UserWarning, match="BasicBlock.forward is patched by"):
        blendprune.apply(on_drift="warn")
    block = _block()
    assert not hasattr(block, "norm1")
    assert torch.equal(block(X), expected)
    assert len(calls) == 1
    row = _row("separate-basic-block-norms")
    assert row.state == "drifted" and HERE in row.detail
    blendprune.revert()
    assert all(vars(BasicBlock)[name] is value for name, value in before.items())
    assert vars(BasicBlock).keys() == before.keys()


@pytest.mark.parametrize("kind", KINDS)
def test_a_forward_patched_after_reaches_blocks_of_all_ages_and_stays(kind):
    calls, expected = [], _block()(X)
    blendprune.apply()
    older = _block()
    foreign = BasicBlock.forward = kind(BasicBlock.forward, calls)
    younger = _block()
    assert hasattr(older, "norm1") and not hasattr(younger, "norm1")
    assert torch.equal(older(X), expected) and torch.equal(younger(X), expected)
    row = _row("separate-basic-block-norms")
    assert row.state == "overridden"
    assert "BasicBlock.forward is" in row.detail and HERE in row.detail
    blendprune.revert()
    assert vars(BasicBlock)["forward"] is foreign
    assert set(vars(BasicBlock)) & {"_load_from_state_dict"} == set()
    for block in (older, younger, _block()):
        assert torch.equal(block(X), expected)
    assert len(calls) == 5
    assert HERE in _row("separate-basic-block-norms").detail
    with pytest.raises(UpstreamDrift, match="is patched by"):
        blendprune.apply()


def test_a_forward_put_in_place_of_ours_finds_upstreams_structure():
    blendprune.apply()
    older = _block()
    expected = older(X)

    def foreign(self, x):
        out = self.conv2(F.relu_(self.conv1(x)))
        return F.relu_(out + self.shortcut(x)) * 2

    BasicBlock.forward = foreign
    assert torch.equal(older(X), expected * 2)
    assert torch.equal(_block()(X), expected * 2)
    older(X).sum().backward()
    assert all(p.grad is not None for p in older.parameters())
    blendprune.revert()
    assert torch.equal(older(X), expected * 2)


@pytest.mark.parametrize("kind", KINDS)
def test_a_method_patched_before_is_extended_named_and_kept(kind, tmp_path):
    calls = []
    foreign = kind(DetectionCheckpointer.save, calls)
    DetectionCheckpointer.save = foreign
    blendprune.apply()
    DetectionCheckpointer(torch.nn.Linear(1, 1), str(tmp_path)).save("model")
    assert len(calls) == 1 and "struct" in torch.load(tmp_path / "model.pth")
    row = _row("save-struct")
    assert row.state == "applied"
    assert "DetectionCheckpointer.save extends" in row.detail and HERE in row.detail
    blendprune.revert()
    assert vars(DetectionCheckpointer)["save"] is foreign


@pytest.mark.parametrize("kind", KINDS)
def test_a_method_patched_after_is_named_and_kept_and_ours_below_does_nothing(kind, tmp_path):
    calls = []
    blendprune.apply()
    foreign = DetectionCheckpointer.save = kind(DetectionCheckpointer.save, calls)
    checkpointer = DetectionCheckpointer(torch.nn.Linear(1, 1), str(tmp_path))
    checkpointer.save("model")
    assert "struct" in torch.load(tmp_path / "model.pth")
    row = _row("save-struct")
    assert row.state == "overridden"
    assert "DetectionCheckpointer.save is" in row.detail and HERE in row.detail
    blendprune.revert()
    assert vars(DetectionCheckpointer)["save"] is foreign
    checkpointer.save("again")
    assert len(calls) == 2 and "struct" not in torch.load(tmp_path / "again.pth")
    blendprune.apply()
    checkpointer.save("third")
    assert "struct" in torch.load(tmp_path / "third.pth")


def _build():
    from detectron2.config import get_cfg
    from detectron2.modeling import META_ARCH_REGISTRY, build_model

    cfg = get_cfg()
    cfg.MODEL.DEVICE, cfg.MODEL.META_ARCHITECTURE = "cpu", "Tiny"
    META_ARCH_REGISTRY._obj_map["Tiny"] = lambda cfg: torch.nn.Linear(1, 1)
    try:
        return build_model(cfg)
    finally:
        del META_ARCH_REGISTRY._obj_map["Tiny"]


@pytest.fixture
def builders():
    """Every module that holds ``build_model``; restored afterwards."""
    import detectron2.engine.defaults  # noqa: F401

    original = sys.modules["detectron2.modeling.meta_arch.build"].build_model
    holders = [m for m in sys.modules.values() if vars(m).get("build_model") is original]
    yield [m for m in holders if m.__name__.startswith("detectron2.")]
    blendprune.revert()
    for module in holders:
        module.build_model = original


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("where", ["everywhere", "detectron2.modeling"])
def test_a_function_patched_before_is_extended_named_and_kept(kind, where, builders):
    calls = []
    patched = [m for m in builders if where in ("everywhere", m.__name__)]
    foreign = kind(patched[0].build_model, calls)
    for module in patched:
        module.build_model = foreign
    before = [module.build_model for module in builders]
    blendprune.apply()
    assert hasattr(_build(), "blendprune_config")
    assert len(calls) == 1
    for module in builders:
        assert type(module.build_model).__name__ == "Wrapper", module
    assert HERE in _row("remember-config").detail
    blendprune.revert()
    assert all(now.build_model is was for now, was in zip(builders, before))
    assert not hasattr(_build(), "blendprune_config")


@pytest.mark.parametrize("kind", KINDS)
def test_a_function_patched_after_is_named_and_kept(kind, builders):
    calls = []
    blendprune.apply()
    module = sys.modules["detectron2.modeling"]
    foreign = module.build_model = kind(module.build_model, calls)
    assert hasattr(_build(), "blendprune_config") and len(calls) == 1
    row = _row("remember-config")
    assert row.state == "overridden" and HERE in row.detail
    blendprune.revert()
    assert module.build_model is foreign
    assert not hasattr(_build(), "blendprune_config") and len(calls) == 2


def test_config_keys_of_others_are_kept_in_both_orders():
    before = _C.dump()
    try:
        _C.MODEL.PRUNE = "theirs"
        blendprune.apply()
        assert _C.MODEL.PRUNE == "theirs" and "FINETUNE" in _C.MODEL
        blendprune.revert()
        assert _C.MODEL.PRUNE == "theirs" and "FINETUNE" not in _C.MODEL
        _C.MODEL.pop("PRUNE")
        assert _C.dump() == before

        blendprune.apply()
        _C.PRUNER.ROUNDS = 7
        _C.PRUNER.THEIRS = 1
        row = _row("add-prune-config")
        assert row.state == "overridden" and "PRUNER.ROUNDS is 7" in row.detail
        blendprune.revert()
        assert dict(_C.PRUNER) == {"ROUNDS": 7, "THEIRS": 1}
    finally:
        blendprune.revert()
        _C.pop("PRUNER", None)
        _C.MODEL.pop("PRUNE", None)
    assert _C.dump() == before


def test_a_class_of_others_in_place_of_a_dummy_is_kept():
    import detectron2.layers.deform_conv as module

    if hasattr(module, "_C"):
        pytest.skip("detectron2 is compiled")
    dummy, own = module.DeformConv, type("Own", (torch.nn.Module,), {})
    module.DeformConv = own
    try:
        with blendprune.applied():
            assert module.DeformConv is own
            assert module.ModulatedDeformConv.__module__ == module.__name__
        assert module.DeformConv is own
    finally:
        module.DeformConv = dummy


def test_without_patches_of_others_no_detail_is_reported():
    with blendprune.applied():
        assert {row.detail for row in blendprune.status()} == {""}
    assert {row.detail for row in blendprune.status()} == {""}
    assert isinstance(BasicBlock.forward, types.FunctionType)
