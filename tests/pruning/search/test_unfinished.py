"""A measurement of the sensitivity that is interrupted goes on from what it had, or begins anew."""

import copy
import json
import os
import random

import pytest
import torch
from detectron2.utils import comm

from blendprune import distributed
from blendprune.errors import ConfigError
from blendprune.pruning import load_sensitivity, measure_sensitivity
from blendprune.pruning.search.digests import data_digests
from tests.helpers.chain import Chain, chain_inputs
from tests.helpers.kills import run_killed
from tests.helpers.processes import in_processes
from tests.helpers.slow import slow_but

BATCHES = [chain_inputs(1), chain_inputs(2) + chain_inputs(3)]


class _Interrupted(Exception):
    """As by Ctrl-C."""


@pytest.fixture
def model():
    torch.manual_seed(0)
    return Chain(10, 4)


@pytest.fixture
def whole(model, tmp_path):
    """The bytes of a measurement that nothing interrupts."""
    path = tmp_path / "whole" / "sensitivity.json"
    _measure(model, path)
    assert os.listdir(path.parent) == ["sensitivity.json"]
    return path.read_bytes()


def _measure(model, path, **how):
    how = {"data": BATCHES, "importance": "magnitude", "ratios": [0.3, 0.6], **how}
    return measure_sensitivity(model, chain_inputs(), path=str(path), **how)


def _interrupt(model, path, groups=1, **how):
    """Measure some groups, and no more."""

    def stop(done, _):
        if done == groups:
            raise _Interrupted

    with pytest.raises(_Interrupted):
        _measure(model, path, progress=stop, **how)
    assert os.listdir(path.parent) == ["sensitivity.json.unfinished"]


def _forwards(model, measure):
    """How many training forwards a measurement runs."""
    seen = []
    with model.register_forward_hook(lambda *_: seen.append(model.training)):
        measure()
    return sum(seen)


@pytest.mark.parametrize("groups", [1, 2])
def test_what_is_measured_is_not_measured_again(model, whole, tmp_path, groups):
    path = tmp_path / "own" / "sensitivity.json"
    path.parent.mkdir()
    everything = _forwards(model, lambda: _measure(model, tmp_path / "new.json"))
    _interrupt(model, path, groups)
    again = _forwards(model, lambda: _measure(model, path))
    # Each group takes two ratios of two batches; the model as it is, two batches.
    assert everything - again == 2 + 4 * groups
    assert path.read_bytes() == whole
    assert os.listdir(path.parent) == ["sensitivity.json"]


@pytest.mark.parametrize("importance", ["random", "obs"])
def test_scores_are_those_of_the_first_groups(model, tmp_path, importance):
    """Random ones are drawn anew each time, and those of gradients take long."""
    path = tmp_path / "own" / "sensitivity.json"
    path.parent.mkdir()
    torch.manual_seed(1)
    _measure(model, tmp_path / "whole.json", importance=importance)
    torch.manual_seed(1)
    _interrupt(model, path, importance=importance)
    torch.manual_seed(2)
    _measure(model, path, importance=importance)
    assert path.read_bytes() == (tmp_path / "whole.json").read_bytes()


OTHERS = {
    "weights": {},
    "importance": {"importance": "fpgm"},
    "ratios": {"ratios": [0.3, 0.7]},
    "images": {"data": [chain_inputs(1), chain_inputs(2) + chain_inputs(4)]},
    "more images": {"data": [*BATCHES, chain_inputs(4)]},
}


@pytest.mark.parametrize("other", OTHERS)
def test_what_is_of_something_else_is_not_used_and_the_log_says_why(model, tmp_path, other, caplog):
    path = tmp_path / "own" / "sensitivity.json"
    path.parent.mkdir()
    _interrupt(model, path)
    if other == "weights":
        with torch.no_grad():
            model.predictor.weight.flatten()[0] += 1
    found = _measure(model, path, **OTHERS[other])
    assert found == _measure(model, tmp_path / "new.json", **OTHERS[other])
    assert load_sensitivity(str(path)) == found
    words = f"(of other {other.removeprefix('more ')}): measuring anew"
    assert [words in record.message for record in caplog.records] == [True]


def _broken(values, how):
    [(root, curve)] = values["groups"].items()
    scores = values["scores"][root]
    changes = {
        "version": lambda: values.update(version=2),
        "no scores": lambda: values.pop("scores"),
        "few scores": lambda: scores.pop(),
        "infinite scores": lambda: scores.__setitem__(0, float("inf")),
        "text for scores": lambda: scores.__setitem__(0, "\x1b[31m"),
        "no loss": lambda: curve.update(loss=[None, None]),
        "another width": lambda: curve.update(width=11),
        "another group": lambda: values["groups"].update(third=dict(curve)),
        "a list": lambda: values.update(groups=[]),
    }
    changes[how]()
    return json.dumps(values)


@pytest.mark.parametrize(
    "how",
    [
        *("version", "no scores", "few scores", "infinite scores", "text for scores", "no loss"),
        *("another width", "another group", "a list", "cut off"),
    ],
)
def test_a_broken_file_is_not_used(model, whole, tmp_path, how, caplog):
    path = tmp_path / "own" / "sensitivity.json"
    path.parent.mkdir()
    _interrupt(model, path)
    unfinished = path.with_name("sensitivity.json.unfinished")
    text = unfinished.read_text()
    unfinished.write_text(text[:-9] if how == "cut off" else _broken(json.loads(text), how))
    _measure(model, path)
    assert path.read_bytes() == whole
    [record] = caplog.records
    assert "measuring anew" in record.message and record.message.isprintable()


def test_an_unfinished_file_is_no_measurement(model, tmp_path):
    path = tmp_path / "own" / "sensitivity.json"
    path.parent.mkdir()
    _interrupt(model, path)
    with pytest.raises(ConfigError, match="sensitivity.json.unfinished' as a measured sensitiv"):
        load_sensitivity(f"{path}.unfinished")


def test_a_measurement_that_is_killed_at_any_file_operation_goes_on(model, whole, tmp_path):
    folder = tmp_path / "own"
    folder.mkdir()
    path, operation = folder / "sensitivity.json", 0
    while run_killed(lambda: _measure(model, path), str(folder), operation):
        _measure(copy.deepcopy(model), path)
        assert path.read_bytes() == whole
        for name in os.listdir(folder):
            (folder / name).unlink()
        operation += 1
    assert operation > 12  # three files: each is opened, flushed and renamed
    assert path.read_bytes() == whole and os.listdir(folder) == ["sensitivity.json"]


@pytest.mark.parametrize("kills", slow_but([5, 30], 5))
def test_a_measurement_that_is_killed_again_and_again_ends(model, whole, tmp_path, kills):
    path, delays = tmp_path / "sensitivity.json", random.Random(kills)
    for _ in range(kills):
        run_killed(lambda: _measure(model, path), str(tmp_path), seconds=delays.uniform(0.01, 0.3))
    _measure(model, path)
    assert path.read_bytes() == whole


@pytest.mark.slow
def test_a_measurement_of_a_blendmask_goes_on(blendmask, images, batches, tmp_path):
    model, how = blendmask(), {"data": batches, "importance": "obs", "ratios": [0.5]}
    path, done = str(tmp_path / "sensitivity.json"), []

    def stop(*step):
        done.append(step)
        if len(done) == 2:
            raise _Interrupted

    whole = measure_sensitivity(model, images, **how)
    with pytest.raises(_Interrupted):
        measure_sensitivity(model, images, path=path, progress=stop, **how)
    before = os.stat(f"{path}.unfinished").st_size
    assert measure_sensitivity(model, images, path=path, **how) == whole == load_sensitivity(path)
    assert before > 1000 and len(whole.groups) > 2


def test_two_processes_go_on_together(model, tmp_path):
    images = [[image] for batch in BATCHES for image in batch] + [chain_inputs(4)]

    def measure(path, stop=None):
        def progress(done, _):
            if done == stop:
                raise _Interrupted

        own = images[comm.get_rank() :: comm.get_world_size()]
        with distributed.together():
            return _measure(copy.deepcopy(model), path, data=own, progress=progress)

    whole, path = tmp_path / "whole.json", tmp_path / "own" / "sensitivity.json"
    path.parent.mkdir()
    in_processes(lambda: measure(whole), tmp_path / "1")
    in_processes(lambda: measure(path, stop=1), tmp_path / "2")
    assert os.listdir(path.parent) == ["sensitivity.json.unfinished"]
    first, second = in_processes(lambda: measure(path), tmp_path / "3")
    assert first == second == load_sensitivity(str(path))
    assert path.read_bytes() == whole.read_bytes()


def test_the_digest_of_data_is_that_of_its_pictures_and_labels(training_batch):
    batch = training_batch(2)
    digests = data_digests([batch])
    assert digests == data_digests([copy.deepcopy(batch)])
    assert digests != data_digests([batch[:1], batch[1:]])
    other = copy.deepcopy(batch)
    other[0]["instances"].gt_boxes.tensor[0, 0] += 1
    assert digests != data_digests([other])
    other = copy.deepcopy(batch)
    other[1]["image"][0, 0, 0] += 1
    assert digests != data_digests([other])
    batch[0]["made"] = lambda: None  # nobody knows what is in it
    assert data_digests([batch]) != data_digests([batch])
