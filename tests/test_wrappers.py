"""Wrapped models: every entry point sees the model inside."""

import pytest
import torch
from detectron2.checkpoint import DetectionCheckpointer
from detectron2.modeling import build_model
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FullyShardedDataParallel, fully_shard

import blendprune
from blendprune.errors import PruningError
from blendprune.pruning import count_flops, head_outputs
from blendprune.wrappers import is_distributed, name_as, plain_name, plain_names, unwrap
from tests.helpers import small_zoo
from tests.helpers.slow import slow_but

SIZE = 64


@pytest.fixture(scope="module", autouse=True)
def process_group(tmp_path_factory):
    """One process, for DistributedDataParallel."""
    file = tmp_path_factory.mktemp("group") / "store"
    torch.distributed.init_process_group("gloo", f"file://{file}", rank=0, world_size=1)
    yield
    torch.distributed.destroy_process_group()


def _compiled(model):
    return torch.compile(model, backend="eager")


def _with_compiled_backbone(model):
    model.backbone = _compiled(model.backbone)
    return model


WRAPPERS = {
    "DataParallel": nn.DataParallel,
    "DDP": nn.parallel.DistributedDataParallel,
    "compiled": _compiled,
    "compiled DDP": lambda m: _compiled(nn.parallel.DistributedDataParallel(m)),
    "DDP of compiled": lambda m: nn.parallel.DistributedDataParallel(_compiled(m)),
    "DataParallel of compiled": lambda m: nn.DataParallel(_compiled(m)),
    "compiled DataParallel": lambda m: _compiled(nn.DataParallel(m)),
}
INPUTS = [{"image": torch.zeros(3, SIZE, SIZE)}]


@pytest.fixture
def cfg(overlay):
    return small_zoo.config_of("rpn-fpn", "INPUT.MIN_SIZE_TEST", SIZE, "MODEL.RESNETS.DEPTH", 18)


@pytest.mark.parametrize("name", WRAPPERS)
def test_what_wraps_a_model_comes_off(name):
    model = nn.Conv2d(1, 1, 1)
    assert unwrap(WRAPPERS[name](model)) is model
    assert is_distributed(WRAPPERS[name](model)) is ("DDP" in name)


def test_a_wrapped_model_has_the_structure_and_the_flops_of_the_plain_one(cfg):
    model = build_model(cfg)
    for wrap in WRAPPERS.values():
        assert blendprune.structure_of(wrap(model)) == blendprune.structure_of(model)
        assert count_flops(wrap(model), INPUTS) == count_flops(model, INPUTS)


def test_pruning_inside_distributed_data_parallel_says_to_wrap_anew(cfg, caplog):
    model = build_model(cfg)
    struct = blendprune.structure_of(model)
    for wrap, said in ((nn.DataParallel, False), (WRAPPERS["compiled DDP"], True)):
        caplog.clear()
        blendprune.restructure(wrap(model), struct)
        assert ("wrap model.module anew" in caplog.text) is said


SHARD = {
    "FullyShardedDataParallel": lambda model, mesh: FullyShardedDataParallel(
        model, device_mesh=mesh, device_id=torch.device("cpu")
    ),
    "fully_shard": lambda model, mesh: fully_shard(model, mesh=mesh),
}


@pytest.mark.parametrize("name", SHARD)
def test_a_sharded_model_is_refused_but_saved_like_any_other(overlay, tmp_path, name):
    model = SHARD[name](nn.Sequential(nn.Conv2d(3, 4, 1)), init_device_mesh("cpu", (1,)))
    with pytest.raises(PruningError, match="sharded by FSDP.*prune the model first"):
        blendprune.plan(model)
    DetectionCheckpointer(model, str(tmp_path)).save("sharded")
    assert (tmp_path / "sharded.pth").exists()


@pytest.mark.parametrize(
    "name", slow_but(["compiled DDP", "DataParallel of compiled"], "compiled DDP")
)
def test_a_wrapped_model_is_pruned_saved_and_loaded_like_the_plain_one(cfg, tmp_path, name):
    torch.manual_seed(0)
    plain = build_model(cfg)
    torch.manual_seed(0)
    wrapped = WRAPPERS[name](build_model(cfg))
    assert blendprune.plan(wrapped).to_dict() == blendprune.plan(plain).to_dict()
    reports = [
        blendprune.prune(m, max_flops=0.6, importance="magnitude", rounds=1)
        for m in (wrapped, plain)
    ]
    assert reports[0].flops == reports[1].flops and reports[0].layers == reports[1].layers

    DetectionCheckpointer(wrapped, str(tmp_path)).save("pruned")
    path = str(tmp_path / "pruned.pth")
    file = torch.load(path, weights_only=True)
    assert list(file["model"]) == list(plain.state_dict())
    assert file["struct"] == blendprune.structure_of(plain)
    _assert_same_weights(blendprune.load(path), plain)

    cfg.MODEL.FINETUNE, cfg.MODEL.WEIGHTS = True, path
    finetuned = build_model(cfg)
    for value in finetuned.state_dict().values():
        value.zero_()
    DetectionCheckpointer(WRAPPERS[name](finetuned)).load(path)
    _assert_same_weights(finetuned, plain)


def test_a_part_that_is_compiled_has_the_names_that_it_has_without(cfg, tmp_path):
    torch.manual_seed(0)
    plain = build_model(cfg)
    torch.manual_seed(0)
    model = _with_compiled_backbone(build_model(cfg))
    assert any("_orig_mod" in name for name in model.state_dict())
    for each in (model, plain):
        blendprune.prune(each, max_flops=0.6, importance="magnitude", rounds=1)
    assert blendprune.structure_of(model) == blendprune.structure_of(plain)
    DetectionCheckpointer(model, str(tmp_path)).save("pruned")
    path = str(tmp_path / "pruned.pth")
    _assert_same_weights(blendprune.load(path), plain)
    dense = _with_compiled_backbone(build_model(cfg))
    blendprune.restructure(dense, blendprune.structure_of(plain))
    DetectionCheckpointer(dense).load(path)
    _assert_same_weights(dense, plain)


def test_a_pruned_compiled_model_runs_with_its_new_widths(overlay):
    model = build_model(small_zoo.config_of("semantic", "MODEL.RESNETS.DEPTH", 18)).eval()
    compiled, images = _compiled(model.backbone), torch.rand(1, 3, SIZE, SIZE)
    with torch.no_grad():
        compiled(images)
        blendprune.prune(model, INPUTS, max_flops=0.5, importance="magnitude", rounds=1)
        found, wanted = compiled(images), model.backbone(images)
    assert all(torch.allclose(found[level], wanted[level], atol=1e-4) for level in wanted)


def test_a_model_compiled_in_place_is_traced_operator_by_operator(cfg):
    model = build_model(cfg)
    plain = blendprune.plan(model).to_dict()
    model.compile(backend="eager")
    model.backbone.compile(backend="eager")
    calls = model._compiled_call_impl, model.backbone._compiled_call_impl
    assert blendprune.plan(model).to_dict() == plain
    assert (model._compiled_call_impl, model.backbone._compiled_call_impl) == calls


def test_files_of_compiled_models_saved_without_the_overlay_load(cfg, tmp_path):
    model = build_model(cfg)
    state = {f"_orig_mod.{name}": value for name, value in model.state_dict().items()}
    path = str(tmp_path / "plain.pth")
    torch.save({"model": state}, path)
    other = build_model(cfg)
    DetectionCheckpointer(other).load(path)
    _assert_same_weights(other, model)
    torch.save({"model": {f"module.{name}": value for name, value in state.items()}}, path)
    _assert_same_weights(blendprune.load(path, model=build_model(cfg)), model)


def test_raw_outputs_of_a_wrapped_model_are_those_of_the_model(cfg):
    model = build_model(cfg).eval()
    with torch.no_grad():
        ours = head_outputs(nn.DataParallel(model), INPUTS)
        theirs = head_outputs(model, INPUTS)
    assert len(ours) == len(theirs) > 0
    assert all(torch.allclose(a, b, atol=1e-4) for a, b in zip(ours, theirs))


def test_names_lose_only_what_wrappers_add():
    assert plain_name("a._orig_mod.b") == "a.b" and plain_name("_orig_mod") == ""
    assert plain_name("a_orig_mod.b") == "a_orig_mod.b"
    assert plain_names(["_orig_mod.module.a", "_orig_mod.module.b"]) == {
        "_orig_mod.module.a": "a",
        "_orig_mod.module.b": "b",
    }
    # One name without the prefix: it is part of the model.
    assert plain_names(["module.a", "b"]) == {"module.a": "module.a", "b": "b"}
    assert plain_names([]) == {}
    state = {"weight": torch.ones(1)}
    assert name_as(state, nn.Conv2d(1, 1, 1)) is state


def _assert_same_weights(ours, theirs):
    ours, theirs = ours.state_dict(), theirs.state_dict()
    assert len(ours) == len(theirs)
    assert all(torch.equal(a, b) for a, b in zip(ours.values(), theirs.values()))
