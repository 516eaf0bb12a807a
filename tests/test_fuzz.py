"""Hostile and broken files: read, or refused with an error of blendprune, and nothing else happens.

`make fuzz` reads ten thousand.
"""

import importlib.util
import os
import subprocess

import pytest
import torch
from detectron2.modeling.meta_arch.retinanet import RetinaNet

import blendprune
from blendprune.errors import StructError
from tests.fuzz.cases import KINDS, cases
from tests.fuzz.readers import read, warm_up
from tests.fuzz.watch import watching
from tests.helpers.one_stage import one_stage_cfg
from tests.helpers.sentences import assert_sentence

# Files of each kind; a few of those that build a model.
_COUNTS = dict.fromkeys(KINDS, 40) | {"config inside": 60, "config beside": 56}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    from blendprune import modeling

    path = str(tmp_path_factory.mktemp("fuzz"))
    with blendprune.applied():
        modeling.register()
        warm_up(path)
        yield path


@pytest.mark.parametrize("kind", KINDS)
def test_any_file_is_read_or_refused_and_nothing_else_happens(folder, kind):
    if kind == "exported":
        pytest.importorskip("onnxruntime")
    total, wrong = 0, []
    for case in cases(_COUNTS[kind] / KINDS[kind][0], folder, seed=1, kinds=[kind]):
        outcomes, problems = read(case, folder)
        total += outcomes["refused"]
        wrong += problems
    assert wrong == []
    assert total > 0
    assert not os.path.exists(os.path.join(folder, "ran"))


def test_looking_for_a_module_is_no_fault(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    for second in range(2):  # the import system lists a folder of sys.path when it has changed
        os.utime(tmp_path, (second, second))
        with watching() as watch:
            assert importlib.util.find_spec("no_such_module") is None
            os.listdir(os.sep)
        assert watch.seen == ["os.listdir /"]


def test_a_config_in_a_file_builds_nothing_that_is_not_registered(folder):
    from detectron2.modeling import META_ARCH_REGISTRY, build_model

    class Late(RetinaNet):
        """Registered for a while."""

    model = build_model(one_stage_cfg())
    struct = blendprune.structure_of(model)
    struct["config"] = struct["config"].replace("ARCHITECTURE: RetinaNet", "ARCHITECTURE: Late")
    struct["meta_architecture"] = "Late"
    path = os.path.join(folder, "late.pth")
    torch.save({"model": model.state_dict(), "struct": struct}, path)
    with pytest.raises(StructError, match="builds no Late here .*import the modules that register"):
        blendprune.load(path)
    META_ARCH_REGISTRY.register(Late)
    try:
        assert type(blendprune.load(path)) is Late
    finally:
        del META_ARCH_REGISTRY._obj_map["Late"]


def test_a_config_in_a_file_builds_no_model_far_larger_than_its_weights(folder):
    from detectron2.modeling import build_model

    model = build_model(one_stage_cfg())
    struct = blendprune.structure_of(model)
    path = os.path.join(folder, "large.pth")
    for large, words in ((1 << 22, "far larger than the weights"), (1 << 31, "has the number")):
        config = struct["config"].replace("RES2_OUT_CHANNELS: 64", f"RES2_OUT_CHANNELS: {large}")
        config = config.replace("DEPTH: 18", "DEPTH: 50")
        torch.save({"model": model.state_dict(), "struct": {**struct, "config": config}}, path)
        with watching(folder) as watch, pytest.raises(StructError, match=words):
            blendprune.load(path)
        assert watch.seen == []


def _hostile():
    import socket

    os.system("true")
    subprocess.run(["true"])
    eval("1 + 1")
    open("/etc/passwd").close()
    socket.socket().close()


def test_the_watch_sees_what_is_not_allowed(folder):
    with watching(folder) as watch:
        _hostile()
    seen = " ".join(watch.seen)
    for event in ("os.system", "subprocess.Popen", "exec", "open /etc/passwd", "socket.__new__"):
        assert event in seen


def test_unpickling_would_have_been_seen(folder):
    """The hostile pickles are hostile: Python's own reader runs them."""
    import pickle

    from tests.fuzz.pickles import calls

    ran = os.path.join(folder, "ran")
    for number, value in enumerate(calls(folder)):
        if number == 0:
            pickle.loads(b"\x80\x02" + value.code + b".")
    assert os.path.exists(ran)
    os.remove(ran)


HOSTILE = (
    "line 2 has the tag !!python/object/apply:os.system, which names code, and commands run no "
)
HOSTILE += "code of a config: write the value itself there"


@pytest.mark.parametrize("place", ["in it", "in its base"])
@pytest.mark.parametrize(
    "command", ["plan --config-file", "bench", "report --output r.html config.yaml"]
)
def test_no_command_runs_the_code_in_a_config(
    folder, tmp_path, monkeypatch, capsys, command, place
):
    from blendprune.__main__ import main

    monkeypatch.chdir(tmp_path)
    text = f"VERSION: 2\nSEED: !!python/object/apply:os.system ['touch {tmp_path}/ran']\n"
    (tmp_path / "base.yaml").write_text(text)
    (tmp_path / "config.yaml").write_text(text if place == "in it" else "_BASE_: base.yaml\n")
    assert main([*command.split(), "config.yaml"]) == 2
    said = capsys.readouterr().err.strip().splitlines()[-1]
    assert_sentence(said.removeprefix("blendprune: "), f"cannot use the config file …: {HOSTILE}")
    assert not (tmp_path / "ran").exists()
