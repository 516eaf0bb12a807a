"""Files of other tools and forks: read as they are where that is safe, converted else."""

import argparse
import collections
import copy
import os
import pickle
import sys
import types

import numpy as np
import pytest
import torch
from detectron2.checkpoint import DetectionCheckpointer
from detectron2.config import get_cfg
from detectron2.modeling import build_model
from torch import nn

import blendprune
from blendprune.checkpoint import read_checkpoint
from blendprune.errors import CheckpointError, StructError, UnsafeStructError
from tests.helpers.net import Net

Point = collections.namedtuple("Point", "x y")


class Unknown:
    """Some object of a training script."""


EXTRAS = {
    "a number of numpy": ({"best": np.float64(0.3), "n": np.int32(-7)}, {"best": 0.3, "n": -7}),
    "texts and truth": ({"a": np.str_("é"), "b": np.bool_(True)}, {"a": "é", "b": True}),
    "other byte order": ({"a": np.array(3, ">i2")[()]}, {"a": 3}),
    "arrays": (
        {"a": np.arange(6, dtype=np.float32).reshape(2, 3), "b": np.asfortranarray([[1, 2]])},
        {"a": torch.arange(6.0).view(2, 3), "b": torch.tensor([[1, 2]])},
    ),
    "an empty namespace": ({"args": argparse.Namespace()}, {"args": {}}),
    "a namespace": ({"args": argparse.Namespace(lr=0.1, f=print)}, {"args": {"lr": 0.1}}),
    "a config": ({"cfg": get_cfg().TEST.AUG}, {"cfg": dict(get_cfg().TEST.AUG)}),
    "a default dict": ({"a": collections.defaultdict(list, {"b": [1]})}, {"a": {"b": [1]}}),
    "nested": ({"a": [{"b": (np.float64(1), Unknown())}]}, {"a": [{"b": (1.0,)}]}),
    "a function": ({"a": 1, "f": os.path.join}, {"a": 1}),
    "an object": ({"a": 1, "b": Unknown()}, {"a": 1}),
    "an object in a list": ({"a": [1, Unknown()]}, {"a": [1]}),
}


@pytest.mark.parametrize("load", [read_checkpoint, None])
@pytest.mark.parametrize("name", EXTRAS)
def test_a_file_with_other_objects_is_read_without_them(overlay, tmp_path, name, load):
    model, path = Net(), str(tmp_path / "file.pth")
    extras, wanted = EXTRAS[name]
    if name == "a config":
        wanted = {
            "cfg": {
                **wanted["cfg"],
                **{k: dict(v) for k, v in wanted["cfg"].items() if isinstance(v, dict)},
            }
        }
    torch.save({"model": model.state_dict(), **extras}, path)
    if load is not None:
        found = load(path)
        assert list(found["model"]) == list(model.state_dict())
        del found["model"]
    else:
        other = Net()
        found = DetectionCheckpointer(other).load(path)
        _assert_same_weights(other.state_dict(), model.state_dict())
    _assert_equal(found, wanted)


@pytest.mark.parametrize("name", EXTRAS)
def test_convert_needs_no_flag_for_them_and_says_what_it_left_out(tmp_path, name):
    model, path, plain = Net(), str(tmp_path / "file.pth"), str(tmp_path / "plain.pth")
    torch.save({"model": model.state_dict(), **EXTRAS[name][0]}, path)
    gone = blendprune.convert(path, plain)
    found = torch.load(plain, weights_only=True)
    _assert_same_weights(found.pop("model"), model.state_dict())
    if name == "an object":
        assert gone == [f"b ({__name__}.Unknown)"]
    assert bool(gone) == any(
        word in name for word in ("object", "function", "nested", "a namespace")
    )


def test_what_is_left_out_is_logged(tmp_path, caplog):
    path = str(tmp_path / "file.pth")
    torch.save({"model": {}, "a": Unknown()}, path)
    with caplog.at_level("WARNING"):
        read_checkpoint(path)
    assert f"{path}: left out objects of other classes: {__name__}.Unknown" in caplog.text


class Trap:
    """Runs code when it is unpickled."""

    def __init__(self, call, *arguments):
        self.call = call, arguments

    def __reduce__(self):
        return self.call


TRAPS = {
    "system": lambda flag: Trap(os.system, f"touch {flag}"),
    "eval": lambda flag: Trap(eval, f"open({flag!r}, 'w')"),
    "open": lambda flag: Trap(open, flag, "w"),
}


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
@pytest.mark.parametrize("protocol", [2, 4])
@pytest.mark.parametrize("name", TRAPS)
def test_reading_and_converting_execute_nothing(overlay, tmp_path, name, protocol):
    flag, path = str(tmp_path / "flag"), str(tmp_path / "file.pth")
    content = {"model": Net().state_dict(), "x": TRAPS[name](flag)}
    torch.save(content, path, pickle_protocol=protocol)
    assert set(read_checkpoint(path)) == {"model"}
    DetectionCheckpointer(Net()).load(path)
    blendprune.convert(path, str(tmp_path / "plain.pth"), allow_pickle=True)
    assert not os.path.exists(flag)
    torch.load(path, weights_only=False)
    assert os.path.exists(flag)


def _wrapped(model):
    return {f"model.{name}": value for name, value in model.state_dict().items()}


FILES = {
    "a bare state dict": lambda model: model.state_dict(),
    "of Lightning": lambda model: {"state_dict": _wrapped(model), "epoch": np.int64(3)},
    "under another name": lambda model: {"net": model.state_dict(), "epoch": 3},
    "of DataParallel": lambda model: {"model": nn.DataParallel(model).state_dict()},
    "of numpy": lambda model: {"model": {k: v.numpy() for k, v in model.state_dict().items()}},
    "a whole model": lambda model: model,
    "a whole model in DataParallel": nn.DataParallel,
    "a model for weights": lambda model: {"model": model, "epoch": 3},
    "a model for a structure": lambda model: {"model": {}, "struct": model, "epoch": 3},
}
WHOLE = [name for name in FILES if "model" in name and "dict" not in name]


@pytest.mark.parametrize("name", FILES)
def test_what_convert_writes_loads_with_and_without_us(tmp_path, name):
    model, path, plain = Net(4), str(tmp_path / "file.pth"), str(tmp_path / "plain.pth")
    torch.save(FILES[name](model), path)
    assert blendprune.convert(path, plain, allow_pickle=name in WHOLE) == []
    found = torch.load(plain, weights_only=True)
    _assert_same_weights(found["model"], model.state_dict())
    assert found.get("epoch", 3) == 3
    assert ("struct" in found) == (name in WHOLE)
    _assert_same_weights(blendprune.load(plain, model=Net(8)).state_dict(), model.state_dict())


@pytest.mark.parametrize("name", WHOLE)
def test_a_pickled_module_needs_the_flag(tmp_path, name):
    path, plain = str(tmp_path / "file.pth"), str(tmp_path / "plain.pth")
    torch.save(FILES[name](Net()), path)
    for read in (read_checkpoint, lambda path: blendprune.convert(path, plain)):
        with pytest.raises(UnsafeStructError, match="pickled module .* convert --allow-pickle"):
            read(path)
    assert not os.path.exists(plain)


def test_a_model_whose_classes_are_gone_is_converted(tmp_path, monkeypatch):
    fork = types.ModuleType("some_fork")
    fork.ForkNet = type("ForkNet", (Net,), {"__module__": "some_fork"})
    monkeypatch.setitem(sys.modules, "some_fork", fork)
    model, path, plain = fork.ForkNet(4), str(tmp_path / "file.pth"), str(tmp_path / "plain.pth")
    model.register_buffer("passing", torch.zeros(2), persistent=False)
    torch.save({"struct": nn.DataParallel(model), "best": np.float64(1)}, path)
    struct, weights = blendprune.structure_of(model), model.state_dict()
    monkeypatch.delitem(sys.modules, "some_fork")
    assert blendprune.convert(path, plain, allow_pickle=True) == []
    found = torch.load(plain, weights_only=True)
    assert found["struct"] == struct and found["best"] == 1
    _assert_same_weights(found["model"], weights)


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
def test_old_file_formats_are_read(tmp_path):
    model, path = Net(), str(tmp_path / "file.pth")
    content = {"model": model.state_dict(), "best": np.float64(0.5)}
    for how in ({"_use_new_zipfile_serialization": False}, {"pickle_protocol": 5}):
        torch.save(content, path, **how)
        found = read_checkpoint(path)
        assert found["best"] == 0.5
        _assert_same_weights(found["model"], model.state_dict())


def test_weights_under_another_name_are_found_by_convert_alone(tmp_path):
    path = str(tmp_path / "file.pth")
    torch.save({"state_dict": Net().state_dict()}, path)
    with pytest.raises(CheckpointError, match="weights under 'state_dict'.*blendprune convert"):
        read_checkpoint(path)


@pytest.mark.parametrize("content", [3, [1, 2], {}, {"a": 1}, {"model": {"a": 1}}, Unknown()])
def test_a_file_without_weights_is_not_converted(tmp_path, content):
    path = str(tmp_path / "file.pth")
    torch.save(content, path)
    with pytest.raises(CheckpointError, match="has no weights: .* save it again with torch.save"):
        blendprune.convert(path, str(tmp_path / "plain.pth"))


@pytest.mark.filterwarnings("ignore:Detected pickle protocol", "ignore:.torch.load. received a zip")
def test_a_file_that_cannot_be_read_is_not_converted(tmp_path):
    path = str(tmp_path / "file.pth")
    torch.jit.script(nn.Linear(1, 1)).save(path)
    with pytest.raises(CheckpointError, match="cannot read .*TorchScript archive"):
        blendprune.convert(path, path, allow_pickle=True)
    with open(path, "wb") as file:
        file.write(pickle.dumps({"a": 1})[:-2])
    with pytest.raises(CheckpointError, match="truncated"):
        blendprune.convert(path, path)
    with pytest.raises(CheckpointError, match="cannot open the model file"):
        blendprune.convert(str(tmp_path / "none.pth"), path)


def test_a_structure_of_ours_stays_and_one_of_another_tool_goes(tmp_path):
    path, plain = str(tmp_path / "file.pth"), str(tmp_path / "plain.pth")
    ours = blendprune.structure_of(Net())
    torch.save({"model": Net().state_dict(), "struct": ours}, path)
    blendprune.convert(path, plain)
    assert torch.load(plain)["struct"] == ours
    torch.save({"model": Net().state_dict(), "struct": {"layers": 3}}, path)
    blendprune.convert(path, plain)
    assert "struct" not in torch.load(plain)
    torch.save({"model": Net().state_dict(), "struct": {**ours, "size": -1}}, path)
    with pytest.raises(StructError, match="'size' is not a positive int"):
        blendprune.convert(path, plain)


def test_a_pickled_module_is_read_only_when_asked_and_saved_anew_in_the_plain_form(
    checkpoint, tmp_path
):
    model, path = checkpoint
    fork = str(tmp_path / "fork.pth")
    torch.save({"model": {}, "struct": model, "iteration": 7}, fork)
    with pytest.raises(UnsafeStructError, match="convert --allow-pickle"):
        blendprune.load(fork)
    with pytest.raises(UnsafeStructError, match="convert --allow-pickle"):
        DetectionCheckpointer(copy.deepcopy(model)).load(fork)
    with pytest.raises(UnsafeStructError):
        blendprune.convert(fork, str(tmp_path / "plain.pth"))
    assert not os.path.exists(tmp_path / "plain.pth")

    blendprune.convert(fork, str(tmp_path / "plain.pth"), allow_pickle=True)
    content = torch.load(tmp_path / "plain.pth", weights_only=True)
    assert content["iteration"] == 7
    loaded = blendprune.load(str(tmp_path / "plain.pth"))
    ours, theirs = loaded.state_dict(), model.state_dict()
    assert all(torch.equal(ours[key], theirs[key]) for key in theirs)


def test_a_module_pickled_by_a_fork_without_config_finetunes_after_conversion(
    checkpoint, blendmask_cfg, tmp_path
):
    model, path = checkpoint
    del model.blendprune_config, model.blendprune_dense_size
    torch.save({"model": model.state_dict(), "struct": model}, tmp_path / "fork.pth")
    plain = str(tmp_path / "plain.pth")
    blendprune.convert(str(tmp_path / "fork.pth"), plain, allow_pickle=True)
    finetuned = build_model(blendmask_cfg("MODEL.FINETUNE", True, "MODEL.WEIGHTS", plain))
    DetectionCheckpointer(finetuned).load(plain)
    ours, theirs = finetuned.state_dict(), model.state_dict()
    assert all(torch.equal(ours[key], theirs[key]) for key in theirs)


def _assert_same_weights(ours, theirs):
    assert list(ours) == list(theirs)
    assert all(torch.equal(ours[key], value) for key, value in theirs.items())


def _assert_equal(found, wanted):
    assert type(found) is type(wanted)
    if isinstance(wanted, torch.Tensor):
        assert torch.equal(found, wanted)
    elif isinstance(wanted, dict):
        assert list(found) == list(wanted)
        for key, value in wanted.items():
            _assert_equal(found[key], value)
    else:
        assert found == wanted
