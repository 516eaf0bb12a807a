"""Processes that are killed while they write: what was there still loads, and nothing is mixed."""

import os
import random
import resource
import signal

import pytest
import torch
from detectron2.checkpoint import DetectionCheckpointer
from torch import nn

import blendprune
from blendprune.checkpoint import build_mode, read_checkpoint
from blendprune.errors import CheckpointError
from blendprune.files import save_atomically, save_json
from blendprune.pipeline.pruned_folder import write_folder
from tests.helpers.kills import run_killed
from tests.helpers.slow import slow_but
from tests.helpers.small_blendmask import small_cfg


@pytest.fixture(autouse=True)
def overlay():
    with blendprune.applied():
        yield


def _net(value):
    net = nn.Sequential(nn.Linear(64, 64), nn.Linear(64, 64))
    for parameter in net.parameters():
        nn.init.constant_(parameter, value)
    return net


def _train(folder, value):
    """What a training writes: a checkpoint of a new name, and one over an old name."""
    checkpointer = DetectionCheckpointer(_net(value), folder)
    checkpointer.save("model_last", iteration=value)
    checkpointer.save(f"model_{value}", iteration=value)


def _value(path):
    """The number that all weights of a checkpoint have."""
    checkpoint = read_checkpoint(path)
    values = {float(x) for tensor in checkpoint["model"].values() for x in tensor.unique()}
    assert len(values) == 1 and values == {float(checkpoint["iteration"])}
    assert "struct" in checkpoint
    return checkpoint["iteration"]


def _check_training(folder):
    last = DetectionCheckpointer(nn.Module(), folder).get_checkpoint_file()
    assert _value(last) in (1, 2)
    assert _value(os.path.join(folder, "model_last.pth")) in (1, 2)
    assert _value(os.path.join(folder, "model_1.pth")) == 1
    if os.path.exists(os.path.join(folder, "model_2.pth")):
        assert _value(os.path.join(folder, "model_2.pth")) == 2


def test_a_training_that_is_killed_at_any_file_operation_has_its_last_checkpoint(tmp_path):
    _train(str(tmp_path), 1)
    operation = 0
    while run_killed(lambda: _train(str(tmp_path), 2), str(tmp_path), operation):
        _check_training(str(tmp_path))
        operation += 1
    assert operation > 8  # two checkpoints, two tags: each is opened and renamed, at least
    last = DetectionCheckpointer(nn.Module(), str(tmp_path)).get_checkpoint_file()
    assert last.endswith("model_2.pth")
    assert not [name for name in os.listdir(tmp_path) if name.endswith(".partial")]


@pytest.mark.parametrize("kills", slow_but([40, 200], 40))
def test_a_training_that_is_killed_at_any_time_has_its_last_checkpoint(tmp_path, kills):
    def train():
        while True:
            _train(str(tmp_path), 2)

    _train(str(tmp_path), 1)
    delays = random.Random(kills)
    for _ in range(kills):
        assert run_killed(train, str(tmp_path), seconds=delays.uniform(0.002, 0.05))
        _check_training(str(tmp_path))


def _prune(folder, value):
    """What `prune` writes: a report, a config and a checkpoint that belong together."""
    path = os.path.join(folder, "model_pruned.pth")
    cfg = small_cfg("MODEL.FINETUNE", True, "MODEL.WEIGHTS", path)
    write_folder(folder, _net(value), cfg, {"value": value}, "<!doctype html>")


def _check_prune(folder):
    """Whether the three files are of one prune; if not, the config is refused."""
    cfg = small_cfg()
    cfg.merge_from_file(os.path.join(folder, "config.yaml"))
    try:
        _, checkpoint = build_mode(cfg)
    except CheckpointError as error:
        assert "Prune again" in str(error)
        return False
    assert set(checkpoint) == {"model", "struct", "checkpoint_id"}
    return True


def test_files_of_two_prunes_are_not_taken_for_one(tmp_path):
    _prune(str(tmp_path), 1)
    assert _check_prune(str(tmp_path))
    operation, whole = 0, []
    while run_killed(lambda: _prune(str(tmp_path), 2), str(tmp_path), operation):
        whole.append(_check_prune(str(tmp_path)))
        operation += 1
        _prune(str(tmp_path), 1)
    assert whole[0] and not all(whole)  # the moment between config and checkpoint was met
    assert _check_prune(str(tmp_path))


def test_a_config_can_be_used_with_another_checkpoint_on_purpose(tmp_path):
    _prune(str(tmp_path / "a"), 1)
    _prune(str(tmp_path / "b"), 2)
    cfg = small_cfg()
    cfg.merge_from_file(str(tmp_path / "a" / "config.yaml"))
    cfg.MODEL.WEIGHTS = str(tmp_path / "b" / "model_pruned.pth")
    with pytest.raises(CheckpointError, match="CHECKPOINT_ID"):
        build_mode(cfg)
    cfg.PRUNER.CHECKPOINT_ID = ""
    assert build_mode(cfg)[1]["model"]["0.bias"][0] == 2
    # What a fine-tuning saves says nothing, and is used with the config of its prune.
    DetectionCheckpointer(_net(3), str(tmp_path)).save("model_final")
    cfg.merge_from_file(str(tmp_path / "a" / "config.yaml"))
    cfg.MODEL.WEIGHTS = str(tmp_path / "model_final.pth")
    assert build_mode(cfg)[1]["model"]["0.bias"][0] == 3


def _sizes(folder):
    return {str(path): path.stat().st_size for path in folder.rglob("*") if path.is_file()}


@pytest.fixture
def small_disk():
    """No file may exceed 4 kB."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, before)
    signal.signal(signal.SIGXFSZ, handler)


@pytest.mark.parametrize("write", ["checkpointer", "save", "json", "prune"])
def test_a_full_disk_is_one_sentence_and_leaves_the_old_files(tmp_path, write, request):
    path = str(tmp_path / "x" / "model_pruned.pth")
    _prune(str(tmp_path / "x"), 1)
    _train(str(tmp_path), 1)
    before = _sizes(tmp_path)
    request.getfixturevalue("small_disk")
    works = {
        "checkpointer": lambda: _train(str(tmp_path), 2),
        "save": lambda: save_atomically({"x": torch.zeros(5000)}, path),
        "json": lambda: save_json({"x": [0.5] * 2000}, str(tmp_path / "sensitivity.json")),
        "prune": lambda: _prune(str(tmp_path / "x"), 2),
    }
    with pytest.raises(CheckpointError, match="^cannot write .*File too large.*is intact.$"):
        works[write]()
    assert _sizes(tmp_path) == before
    assert _check_prune(str(tmp_path / "x"))
    assert _value(str(tmp_path / "model_last.pth")) == 1
