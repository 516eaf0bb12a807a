"""A prune to several levels that is killed: the same command goes on, and keeps what is whole."""

import itertools
import json
import os
import random
import shutil

import pytest
import torch
from detectron2.checkpoint import DetectionCheckpointer
from detectron2.modeling import build_model
from detectron2.utils import comm

import blendprune
from blendprune import distributed
from blendprune.errors import ConfigError
from blendprune.pipeline import from_config, prune_from_config
from blendprune.pipeline.unfinished import UnfinishedPrune
from blendprune.progress import LoggedProgress
from blendprune.pruning.scores import partial_sums
from tests.helpers.chain import Chain, chain_inputs
from tests.helpers.kills import run_killed
from tests.helpers.processes import in_processes
from tests.helpers.slow import slow_but
from tests.helpers.small_blendmask import small_cfg

FILES = ["config.yaml", "model_pruned.pth", "report.html", "report.json"]
KEYS = (
    "PRUNER.MAX_FLOPS 0.3 PRUNER.LEVELS [0.8,0.6] PRUNER.ROUNDS 1 PRUNER.ROUND_TO 1 "
    "PRUNER.FINETUNE_SCHEDULE 0.5 MODEL.WEIGHTS dense.pth INPUT.MIN_SIZE_TEST 8 "
    "INPUT.MAX_SIZE_TEST 8"
).split()


@pytest.fixture(autouse=True, scope="module")
def overlay():
    with blendprune.applied():
        yield


@pytest.fixture(scope="module")
def chain():
    """A function that prunes a small model to two levels; returns the lines of the log."""

    def prune(folder, *keys, seed=0, images=range(4), stop=None):
        lines = []

        def write(line):
            lines.append(line)
            if len(lines) == stop:
                raise KeyboardInterrupt

        torch.manual_seed(seed)
        model, batches = Chain().eval(), [chain_inputs(image) for image in images]
        cfg = small_cfg(*KEYS, *keys)
        with LoggedProgress(write).heard():
            from_config.prune_trained(cfg, model, str(folder), lambda: batches)
        return lines

    with pytest.MonkeyPatch.context() as patch:
        # They take long, and are not what is told of here.
        patch.setattr(from_config, "try_config", lambda *args: [])
        patch.setattr(from_config, "form_latencies", lambda *args: ({}, []))
        patch.setattr(from_config, "page_of_prune", lambda reports, *args: " ".join(reports))
        yield prune


@pytest.fixture(scope="module")
def whole(chain, tmp_path_factory):
    """A folder, the lines of a prune that nothing interrupts, and all that it writes there."""
    folder = tmp_path_factory.mktemp("prune") / "out"
    lines = chain(folder)
    assert sorted(os.listdir(folder)) == ["0.6", "0.8", *FILES]
    return folder, lines, _contents(folder)


@pytest.fixture
def folder(whole):
    """The folder, empty."""
    return _emptied(whole[0])


def _contents(folder):
    """All that a prune decides: without what a clock says, and without drawings."""
    found = {}
    for path in sorted(folder.rglob("*")):
        if path.name == "report.json":
            report = json.loads(path.read_text())
            keys = ("checkpoint_id", "flops", "params", "layers", "flops_by_module", "relative_to")
            found[str(path)] = {key: report[key] for key in keys}
        elif path.is_file() and path.suffix != ".html":
            found[str(path)] = path.read_bytes()
    return found


def _emptied(folder):
    shutil.rmtree(folder)
    folder.mkdir()
    return folder


def _found(lines, words):
    return [line for line in lines if words in line]


# The lines of the log: each level has one of its round, one of its latency, and one when it is
# written.
@pytest.mark.parametrize("stop", slow_but(range(1, 10), 3, 4, 8))
def test_a_prune_that_is_interrupted_at_any_step_ends_as_if_it_had_not_been(
    chain, whole, folder, stop
):
    assert len(whole[1]) == 9
    with pytest.raises(KeyboardInterrupt):
        chain(folder, stop=stop)
    done, kept = stop // 3, ["0.8", "0.6"][: stop // 3]
    assert (folder / "unfinished.pth").is_file()
    stamps = {path: path.stat().st_mtime_ns for name in kept for path in folder.glob(f"{name}/*")}
    assert len(stamps) == 4 * len(kept)
    again = chain(folder)
    assert _contents(folder) == whole[2]
    assert stamps == {path: path.stat().st_mtime_ns for path in stamps}
    assert (folder / "report.html").read_text() == "0.8 0.6 out"
    done = (stop + 2) // 3  # a round is kept before it is told of
    [line] = _found(again, "unfinished.pth")
    words = f"; levels written: {', '.join(kept)}" if kept else ""
    assert line.endswith(f"of an interrupted prune (rounds done: {done}{words})")
    notes = json.loads((folder / "report.json").read_text())["notes"]
    assert _found(notes, f"went on behind round {done} of")
    assert len(_found(again, "of the FLOPs of")) == 3 - len(kept)


@pytest.mark.parametrize("behind, done", [(2, (0, 2)), (8, (1, 3))])
def test_a_prune_that_is_interrupted_while_it_scores_goes_on_behind_the_last_image(
    chain, whole, folder, monkeypatch, behind, done
):
    add_round, count = UnfinishedPrune.add_round, itertools.count(1)

    def add_and_stop(self, state):
        add_round(self, state)
        if next(count) == behind:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(partial_sums, "_SECONDS", 0)
        patch.setattr(UnfinishedPrune, "add_round", add_and_stop)
        with pytest.raises(KeyboardInterrupt):
            chain(folder)
    again = chain(folder)
    assert _contents(folder) == whole[2]
    [line] = _found(again, "unfinished.pth")
    assert "(rounds done: {}; images scored for the next: {}".format(*done) in line


def test_a_prune_that_ended_leaves_nothing_behind_and_comes_again_the_same(chain, whole, folder):
    assert not _found(whole[1], "unfinished.pth")
    for _ in range(2):
        assert chain(folder) == whole[1] and _contents(folder) == whole[2]


def _interrupt(chain, folder):
    """Leave two levels."""
    with pytest.raises(KeyboardInterrupt):
        chain(folder, stop=7)
    assert sorted(os.listdir(folder)) == ["0.6", "0.8", "unfinished.pth"]


OTHERS = {
    "fine-tuning": (("PRUNER.FINETUNE_SCHEDULE", 0.25), {}, "(of another config): pruning anew"),
    "levels": (("PRUNER.LEVELS", "[0.8]"), {}, "(of another config): pruning anew"),
    "weights": ((), {"seed": 1}, "(of other weights): pruning anew"),
    "images": ((), {"images": range(1, 5)}, "(of other images): pruning anew"),
}


@pytest.mark.parametrize("other", slow_but(OTHERS, "fine-tuning", "images"))
def test_nothing_of_another_prune_is_kept(chain, folder, other, caplog):
    keys, how, words = OTHERS[other]
    chain(folder, *keys, **how)
    wanted = _contents(folder)
    _interrupt(chain, _emptied(folder))
    if other == "levels":
        shutil.rmtree(folder / "0.6")  # nobody asks for it any more
    lines = chain(folder, *keys, **how)
    assert _contents(folder) == wanted
    assert len(_found([*lines, *(record.message for record in caplog.records)], words)) == 1
    assert len(_found(lines, "of the FLOPs of")) == (2 if other == "levels" else 3)


BROKEN = [
    (name, how)
    for how in ("gone", "cut off", "of another prune")
    for name in ("report.json", "config.yaml", "model_pruned.pth")
]


@pytest.mark.parametrize("broken", slow_but(BROKEN, *BROKEN[::4]))
def test_where_a_level_is_not_whole_all_is_pruned_again(chain, whole, folder, broken):
    name, how = broken
    _interrupt(chain, folder)
    path = folder / "0.8" / name
    if how == "gone":
        path.unlink()
    elif how == "cut off":
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    else:
        shutil.copy(folder / "0.6" / name, path)
    lines = chain(folder)
    assert len(_found(lines, "is not used")) == 1 and _contents(folder) == whole[2]


@pytest.mark.parametrize("size", slow_but([0, 100, -100], -100))
def test_a_broken_state_is_not_used(chain, whole, folder, size):
    _interrupt(chain, folder)
    path = folder / "unfinished.pth"
    path.write_bytes(path.read_bytes()[:size])
    assert len(_found(chain(folder), "is not used")) == 1 and _contents(folder) == whole[2]


def test_a_state_that_was_made_up_is_one_sentence(chain, folder):
    _interrupt(chain, folder)
    path = folder / "unfinished.pth"
    found = torch.load(path, weights_only=True)
    del found["state"]["weights"]["first.weight"]
    torch.save(found, path)
    with pytest.raises(ConfigError, match="has another first.weight.*: delete unfinished.pth in"):
        chain(folder)


def _kill(chain, folder, **when):
    """Kill a prune, and go on; returns whether it was killed, and what is there in the end."""
    killed = run_killed(lambda: chain(folder), str(folder), **when)
    if killed:
        chain(folder)
    return killed, _contents(folder)


@pytest.mark.parametrize("step", slow_but([3, 20], 20))
def test_a_prune_that_is_killed_at_file_operations_goes_on(chain, whole, folder, step):
    operation, killed = step // 2, True
    while killed:
        killed, found = _kill(chain, _emptied(folder), operation=operation)
        assert found == whole[2]
        operation += step
    assert operation > 60  # three folders, and a state after each round and level


@pytest.mark.parametrize("kills", slow_but([3, 15], 3))
def test_a_prune_that_is_killed_at_any_time_goes_on(chain, whole, folder, kills):
    delays = random.Random(kills)
    for _ in range(kills):
        seconds = delays.uniform(0.1, 1.5)
        assert _kill(chain, _emptied(folder), seconds=seconds)[1] == whole[2]


def test_two_processes_go_on_together(chain, folder, tmp_path):
    def prune(stop=None):
        own = range(comm.get_rank(), 4, comm.get_world_size())
        with distributed.together():
            return chain(folder, images=own, stop=stop)

    in_processes(prune, tmp_path / "1")
    wanted = _contents(folder)
    _emptied(folder)
    # The second process has lines of its rounds alone.
    in_processes(lambda: prune(stop=4 if comm.get_rank() == 0 else None), tmp_path / "2")
    assert sorted(os.listdir(folder)) == ["0.8", "unfinished.pth"]
    first, second = in_processes(prune, tmp_path / "3")
    assert len(_found(first, "rounds done: 2; levels written: 0.8")) == 1
    assert not _found(second, "rounds done")
    assert _contents(folder) == wanted


@pytest.mark.slow
def test_a_blendmask_goes_on(registered, blendmask_cfg, tmp_path):
    cfg = blendmask_cfg("PRUNER.IMPORTANCE", "magnitude", "PRUNER.ROUNDS", 1)
    DetectionCheckpointer(build_model(cfg), str(tmp_path)).save("dense")
    cfg.MODEL.WEIGHTS, folder = str(tmp_path / "dense.pth"), tmp_path / "out"
    cfg.PRUNER.MAX_FLOPS, cfg.PRUNER.LEVELS = 0.5, [0.85, 0.7]

    def write(line):
        if str(folder / "0.7") in line:  # the last line of the level
            raise KeyboardInterrupt

    prune_from_config(cfg.clone(), str(folder))
    whole = _contents(folder)
    _emptied(folder)
    with pytest.raises(KeyboardInterrupt), LoggedProgress(write).heard():
        prune_from_config(cfg.clone(), str(folder))
    lines = []
    with LoggedProgress(lines.append).heard():
        prune_from_config(cfg.clone(), str(folder))
    assert len(_found(lines, "rounds done: 2; levels written: 0.85, 0.7")) == 1
    assert len(_found(lines, "of the FLOPs of")) == 1 and _contents(folder) == whole
