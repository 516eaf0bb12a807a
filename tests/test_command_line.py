"""The command line: what it prints, its exit codes. Wrong commands are in test_wrong_commands."""

import contextlib
import inspect
import io
import itertools
import json
import os
import shutil
import stat
import subprocess
import sys

import pytest
import torch
import yaml
from detectron2.checkpoint import DetectionCheckpointer
from detectron2.config import get_cfg
from detectron2.modeling import build_model

import blendprune
from blendprune import modeling
from blendprune.__main__ import main
from blendprune.command_line.parser import GROUPS, make_parser
from blendprune.data.digits import DIGITS_TEST, DIGITS_TRAIN
from tests.helpers.digit_scenes import digit_scenes, forget_digits
from tests.helpers.exportable import one_level_retinanet


@pytest.fixture(autouse=True)
def _revert_after():
    yield
    blendprune.revert()


@pytest.fixture
def trained(registered, dense_weights, blendmask_cfg, tmp_path):
    """A dense model's config file and its weights."""
    cfg = blendmask_cfg("PRUNER.IMPORTANCE", "magnitude", "PRUNER.ROUNDS", 1)
    shutil.copy(dense_weights, tmp_path)
    return _written(cfg, tmp_path)


@pytest.fixture(scope="module")
def dense_weights(blendmask_cfg, tmp_path_factory):
    """The file of a dense model."""
    folder = tmp_path_factory.mktemp("dense")
    with blendprune.applied():
        modeling.register()
        DetectionCheckpointer(build_model(blendmask_cfg()), str(folder)).save("dense")
    return folder / "dense.pth"


@pytest.fixture(scope="module")
def pruned(blendmask_cfg, dense_weights, tmp_path_factory):
    """A folder of a dense model's config and weights, and of what one command pruned and said."""
    folder = tmp_path_factory.mktemp("pruned")
    shutil.copy(dense_weights, folder)
    with blendprune.applied():
        modeling.register()
        cfg = blendmask_cfg("PRUNER.IMPORTANCE", "magnitude", "PRUNER.ROUNDS", 1)
        with contextlib.redirect_stdout(io.StringIO()) as said:
            flags = ("--max-flops", 0.5, "--output", folder / "one")
            assert _prune(_written(cfg, folder), *flags) == 0
    return folder, said.getvalue()


@pytest.fixture
def trained_on_digits(registered, blendmask_cfg, tmp_path):
    """The same for images that are there."""
    cfg = blendmask_cfg("PRUNER.IMPORTANCE", "magnitude", "PRUNER.ROUNDS", 1)
    cfg.DATASETS.TRAIN = (DIGITS_TRAIN,)
    cfg.MODEL.FCOS.NUM_CLASSES = cfg.MODEL.BASIS_MODULE.NUM_CLASSES = 10
    cfg.INPUT.MASK_FORMAT, cfg.INPUT.MIN_SIZE_TRAIN = "bitmask", (64,)
    cfg.SOLVER.IMS_PER_BATCH = cfg.PRUNER.CALIBRATION_IMAGES = 2
    DetectionCheckpointer(build_model(cfg), str(tmp_path)).save("dense")
    with digit_scenes(tmp_path):
        yield _written(cfg, tmp_path)


def _written(cfg, tmp_path):
    cfg.MODEL.WEIGHTS = str(tmp_path / "dense.pth")
    cfg.OUTPUT_DIR = str(tmp_path / "output")
    (tmp_path / "config.yaml").write_text(cfg.dump())
    return tmp_path


def _prune(trained, *args):
    return main(["prune", "--config-file", str(trained / "config.yaml"), *map(str, args)])


def _sentence(capsys):
    """The one line on stderr, checked to be nothing but a sentence."""
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1, lines
    assert lines[0].startswith("blendprune: ")
    assert "Traceback" not in lines[0]
    return lines[0]


def test_prune_writes_weights_config_and_report(pruned):
    folder, printed = pruned
    out = folder / "one"
    assert sorted(os.listdir(out)) == [
        *("config.yaml", "model_pruned.pth", "report.html", "report.json")
    ]

    report = json.loads((out / "report.json").read_text())
    for key in ("flops", "params", "latency_ms"):
        assert 0 < report[key]["after"] and 0 < report[key]["before"]
    assert 0.49 <= report["flops"]["after"] / report["flops"]["before"] <= 0.5
    assert report["wall_s"] > 0
    assert set(report["latency_ms_by_form"]) == {"eager", "deployed"}
    assert report["latency_ms_by_form"]["eager"] == report["latency_ms"]
    assert report["round_to"]["auto"] is True
    words = f"multiples of {report['round_to']['multiple']} (auto: {report['round_to']['reason']})"
    assert "FLOPs" in printed and f"widths: {words}" in printed and f", widths {words}: " in printed

    assert f"--config-file {out}/config.yaml" in (out / "report.html").read_text()
    own = report["flops_by_module"].values()
    assert sum(each["after"] for each in own) == report["flops"]["after"]

    config = yaml.safe_load((out / "config.yaml").read_text())
    assert config["MODEL"]["FINETUNE"] is True and config["MODEL"]["PRUNE"] is False
    assert config["MODEL"]["WEIGHTS"] == str(out / "model_pruned.pth")
    assert "DISTILLATION" not in config["PRUNER"] and config["PRUNER"]["KEEP_BEST"] is True
    model = blendprune.load(str(out / "model_pruned.pth"))
    assert sum(p.numel() for p in model.parameters()) == report["params"]["after"]


@pytest.mark.parametrize(
    ("test_set", "importance"), [((DIGITS_TEST,), "magnitude"), (("elsewhere",), "taylor")]
)
def test_the_page_shows_test_images_or_else_training_images(
    trained_on_digits, test_set, importance
):
    opts = ("DATASETS.TEST", test_set, "PRUNER.IMPORTANCE", importance)
    out = trained_on_digits / "out"
    assert _prune(trained_on_digits, "--max-flops", 0.6, "--output", out, *opts) == 0
    images = 1 if importance == "magnitude" else 2
    assert (out / "report.html").read_text().count("data:image/jpeg") == 2 * images


def test_pictures_without_labels_serve_as_calibration_images(trained_on_digits):
    model = blendprune.load(str(trained_on_digits / "dense.pth"))
    head = model.proposal_generator.fcos_head
    for layer in (head.cls_logits, head.ctrness):
        torch.nn.init.constant_(layer.bias, 2.0)
    DetectionCheckpointer(model, str(trained_on_digits)).save("dense")
    out = trained_on_digits / "out"
    pictures = trained_on_digits / "digits" / "train"
    opts = ("--importance", "taylor", "DATASETS.TRAIN", ("elsewhere",))
    flags = ("--max-flops", 0.6, "--images", pictures, "--output", out)
    assert _prune(trained_on_digits, *flags, *opts) == 0
    report = json.loads((out / "report.json").read_text())
    assert f"calibrated on pictures of {pictures}, labelled by the dense model" in report["notes"]
    assert 0.58 < report["flops"]["after"] / report["flops"]["before"] <= 0.6


def test_a_page_that_cannot_be_drawn_does_not_lose_the_prune(trained, monkeypatch):
    out = trained / "out"
    monkeypatch.setattr("blendprune.report.charts.bars", None)
    flags = ("--max-flops", 0.6, "--importance", "magnitude")
    assert _prune(trained, *flags, "--output", out) == 0
    assert blendprune.load(str(out / "model_pruned.pth"))
    assert "cannot be drawn (TypeError" in (out / "report.html").read_text()


def test_the_emitted_config_builds_the_pruned_model(pruned, registered, blendmask_cfg):
    cfg = blendmask_cfg()
    cfg.merge_from_file(str(pruned[0] / "one/config.yaml"))
    model = build_model(cfg)
    DetectionCheckpointer(model).load(cfg.MODEL.WEIGHTS)
    ours = blendprune.load(cfg.MODEL.WEIGHTS).state_dict()
    assert all(torch.equal(ours[key], value) for key, value in model.state_dict().items())


def test_the_runtime_of_a_latency_is_a_flag_of_prune(trained, capsys):
    assert _prune(trained, "--max-latency", 0.5, "--runtime", "tensorrt") == 2
    assert "there is no runtime 'tensorrt': choose among eager, deployed" in _sentence(capsys)


@pytest.mark.slow
def test_each_level_gets_a_folder_of_its_own(trained, capsys):
    out = trained / "pruned"
    flags = ["--max-flops", 0.5, "--level", 0.7, "--level", 0.85]
    assert _prune(trained, *flags, "--output", out) == 0
    files = ["config.yaml", "model_pruned.pth", "report.html", "report.json"]
    assert sorted(os.listdir(out)) == ["0.7", "0.85", *files]
    for folder, level in ((out / "0.85", 0.85), (out / "0.7", 0.7), (out, 0.5)):
        assert set(files) <= set(os.listdir(folder))
        report = json.loads((folder / "report.json").read_text())
        assert 0.98 * level <= report["flops"]["after"] / report["flops"]["before"] <= level
        assert report["latency_ms"]["after"] > 0
        config = yaml.safe_load((folder / "config.yaml").read_text())
        assert config["MODEL"]["WEIGHTS"] == str(folder / "model_pruned.pth")
        assert config["OUTPUT_DIR"] == str(folder / "finetune")
        model = blendprune.load(config["MODEL"]["WEIGHTS"])
        assert sum(p.numel() for p in model.parameters()) == report["params"]["after"]
    assert str(out / "0.85") in capsys.readouterr().out
    again = ["--output", trained / "again", "PRUNER.LEVELS", "[0.85]"]
    assert _prune(trained, "--max-flops", 0.7, *again) == 0
    reports = [
        json.loads((d / "report.json").read_text()) for d in (out / "0.7", trained / "again")
    ]
    assert reports[0]["layers"] == reports[1]["layers"]


def test_the_dense_model_teaches_if_it_is_to(trained):
    out = trained / "pruned"
    tail = ["PRUNER.FINETUNE_DISTILL", True]
    assert _prune(trained, "--max-flops", 0.7, "--output", out, *tail) == 0
    config = yaml.safe_load((out / "config.yaml").read_text())
    assert config["PRUNER"]["DISTILLATION"]["TEACHER"] == str(trained / "dense.pth")


def test_a_pruned_model_can_be_pruned_again(pruned, registered, capsys):
    trained, _ = pruned
    weights = ["MODEL.WEIGHTS", trained / "one/model_pruned.pth"]
    assert _prune(trained, "--max-flops", 0.7, "--output", trained / "two", *weights) == 0
    one, two = (json.loads((trained / d / "report.json").read_text()) for d in ("one", "two"))
    assert two["flops"]["before"] == one["flops"]["after"]
    # It is said whose FLOPs the target was a fraction of.
    assert one["relative_to"] == {"weights": str(trained / "dense.pth"), "flops": 1, "params": 1}
    left = one["flops"]["after"] / one["flops"]["before"]
    assert two["relative_to"]["weights"] == str(weights[1])
    assert two["relative_to"]["flops"] == pytest.approx(left)
    said = f"one/model_pruned.pth (already pruned: {left:.3f} of the dense one's FLOPs)"
    shown = capsys.readouterr().out
    assert f"before: the model at {trained}/{said}" in shown
    assert f"of the FLOPs of the model at {trained}/{said}, widths " in shown


def test_the_config_node_sets_what_a_flag_sets_and_the_tail_wins(trained):
    out = trained / "pruned"
    tail = ["PRUNER.MAX_FLOPS", 0.8, "OUTPUT_DIR", trained]
    assert _prune(trained, *tail) == 0
    report = json.loads((out / "report.json").read_text())
    assert 0.78 <= report["flops"]["after"] / report["flops"]["before"] <= 0.8


@pytest.mark.slow
def test_a_limit_of_memory_is_met_and_reported(trained, capsys):
    out = trained / "out"
    assert _prune(trained, "--max-memory", 0.9, "--output", out) == 0
    memory = json.loads((out / "report.json").read_text())["memory_mb"]
    assert memory["after"] <= 0.9 * memory["before"]
    table = capsys.readouterr().out
    assert "memory (MB)" in table and "\nmemory: peak of the activation tensors" in table


def _plan(trained, *args):
    return main(["plan", "--config-file", str(trained / "config.yaml"), *map(str, args)])


def test_plan_prints_groups_reasons_and_reach_without_weights(trained, capsys):
    os.remove(trained / "dense.pth")
    assert _plan(trained, "MODEL.WEIGHTS", "") == 0
    table = capsys.readouterr().out
    for words in ("min … max", "backbone.bottom_up.res3.0.conv1", "prediction layer", "FLOPs (M)"):
        assert words in table
    assert _plan(trained, "--json", "--ignore", "backbone.bottom_up.res3*") == 0
    found = json.loads(capsys.readouterr().out)
    totals = {"flops", "params", "activations", "memory_mb"}
    assert found.keys() == {"groups", "notes", "uncounted_operators", "round_to", *totals}
    reasons = {group["root"]: group["frozen_reason"] for group in found["groups"]}
    assert reasons["backbone.bottom_up.res3.0.conv1"] == "ignored by 'backbone.bottom_up.res3*'"


@pytest.mark.parametrize("finetune", [True, False])
def test_plan_of_a_pruned_checkpoint_has_its_widths(pruned, registered, capsys, finetune):
    trained, _ = pruned
    report = json.loads((trained / "one/report.json").read_text())
    tail = ["MODEL.WEIGHTS", trained / "one/model_pruned.pth", "MODEL.FINETUNE", finetune]
    assert _plan(trained, "--json", *tail) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["flops"]["now"] == report["flops"]["after"]
    assert found["params"]["now"] == report["params"]["after"]


@pytest.mark.slow
def test_a_rounding_by_flag_by_file_and_by_tail(trained, capsys):
    def rounding(*args):
        assert _plan(trained, "--json", *args) == 0
        return json.loads(capsys.readouterr().out)["round_to"]

    auto = rounding()
    assert auto["auto"] and auto["multiple"] in (8, 16) and "float32" in auto["reason"]
    assert rounding("--round-to", "auto") == auto
    given = {"multiple": 24, "auto": False, "reason": ""}
    assert rounding("--round-to", 24) == rounding("PRUNER.ROUND_TO", 24) == given
    assert rounding("--round-to", 24, "PRUNER.ROUND_TO", "auto") == auto

    config = yaml.safe_load((trained / "config.yaml").read_text())
    assert config["PRUNER"]["ROUND_TO"] is None
    for value, found in ((24, given), ("auto", auto), (0, {**given, "multiple": 1})):
        config["PRUNER"]["ROUND_TO"] = value
        (trained / "config.yaml").write_text(yaml.safe_dump(config))
        assert rounding() == found
        assert rounding("PRUNER.ROUND_TO", 24) == rounding("--round-to", 24) == given
        assert rounding("PRUNER.ROUND_TO", "auto") == rounding("PRUNER.ROUND_TO", None) == auto


@pytest.mark.slow
def test_ratios_and_patterns_by_flag_by_file_and_by_tail(trained):
    def widths(*args):
        assert _prune(trained, "--max-flops", 0.6, "--output", trained / "out", *args) == 0
        layers = json.loads((trained / "out/report.json").read_text())["layers"]
        return {name: (w["before"], w["after"]) for name, w in layers.items()}

    by_flag = widths("--layer-ratio", "*.res3.0.conv1", 0.25, "--ignore", "*.res4.0.conv1")
    assert by_flag["backbone.bottom_up.res3.0.conv1"] == (128, 96)
    assert by_flag["backbone.bottom_up.res4.0.conv1"] == (256, 256)

    config = yaml.safe_load((trained / "config.yaml").read_text())
    config["PRUNER"]["PRUNING_RATIO_DICT"] = [["*.res3.0.conv1", 0.25]]
    config["PRUNER"]["IGNORED_LAYERS"] = ["*.res4.0.conv1"]
    (trained / "config.yaml").write_text(yaml.safe_dump(config))
    assert widths() == by_flag
    later = widths("--layer-ratio", "*.res3.*.conv1", 0.5)
    assert later["backbone.bottom_up.res3.0.conv1"] == (128, 64)
    tail = widths("PRUNER.PRUNING_RATIO_DICT", "[['*.res3.0.conv1', 0]]")
    assert tail["backbone.bottom_up.res3.0.conv1"] == (128, 128)


def test_every_argument_of_prune_has_its_key(registered):
    names = inspect.signature(blendprune.prune).parameters
    keys = set(get_cfg().PRUNER)
    assert {n.upper() for n in names} - keys == {
        *("MODEL", "EXAMPLE_INPUTS", "DATA", "PROGRESS", "ON_LEVEL", "ON_ROUND", "RESUME")
    }


@pytest.mark.parametrize("command", ["plan", "sensitivity", "prune"])
def test_a_device_that_is_not_there_is_named(trained, capsys, command):
    # As "cuda", detectron2's default, where there is no GPU; no machine has a hundred.
    args = ["--max-flops", "0.5"] if command == "prune" else []
    config = ["--config-file", str(trained / "config.yaml")]
    assert main([command, *config, *args, "MODEL.DEVICE", "cuda:99"]) == 2
    sentence = _sentence(capsys)
    assert "MODEL.DEVICE is 'cuda:99', which cannot be used here" in sentence
    assert sentence.endswith("set MODEL.DEVICE cpu.")


def test_a_missing_config_file_is_named(capsys):
    assert main(["prune", "--config-file", "no.yaml", "--max-flops", "0.5"]) == 2
    assert "no.yaml" in _sentence(capsys)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_read_only_output_is_named(trained, capsys):
    folder = trained / "locked"
    folder.mkdir()
    folder.chmod(stat.S_IRUSR | stat.S_IXUSR)
    assert _prune(trained, "--max-flops", 0.5, "--output", folder) == 2
    assert "cannot write to the output folder" in _sentence(capsys)


def test_status_lists_every_patch_as_applied(capsys):
    assert main(["status", "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert {row["state"] for row in rows} == {"applied"}
    names = {row["name"] for row in rows}
    assert {"separate-basic-block-norms", "save-struct", "prune-and-finetune-blendmask"} <= names
    assert main(["status"]) == 0
    assert "separate-basic-block-norms" in capsys.readouterr().out


def test_status_says_drift_by_its_exit_code(monkeypatch, capsys):
    from blendprune import overlay

    patch = next(p for p in overlay.PATCHES if p.name == "save-struct" and p.when())
    monkeypatch.setattr(patch, "digests", ("0" * 16,))
    assert main(["status"]) == 1
    assert "drifted" in capsys.readouterr().out


@pytest.fixture
def retinanet(registered, tmp_path):
    """A small one: its config file and its pruned weights."""
    cfg = one_level_retinanet()
    model = build_model(cfg)
    blendprune.prune(model, pruning_ratio=0.4, importance="magnitude", rounds=1)
    DetectionCheckpointer(model, str(tmp_path)).save("dense")
    return _written(cfg, tmp_path)


def test_bench_times_checkpoints_and_configs(retinanet, capsys):
    output = retinanet / "bench"
    files = [str(retinanet / name) for name in ("dense.pth", "config.yaml")]
    how = ["--form", "eager", "--runs", "1", "--size", "64", "96", "--batch", "2"]
    threads = torch.get_num_threads()
    assert main(["bench", *files, *how, "--threads", "1", "--output", str(output)]) == 0
    shown = capsys.readouterr().out
    assert "1 thread; random pixels, 64 x 96; medians of 1" in shown
    found = json.loads((output / "bench.json").read_text())
    assert [(row["model"], row["batch"]) for row in found["rows"]] == [
        ("dense", 2),
        (f"{retinanet.name}/config", 2),
    ]
    assert all(row["model"] in shown and row["ms"] > 0 for row in found["rows"])
    assert torch.get_num_threads() == threads


def test_bench_evaluates_every_form(trained_on_digits, capsys):
    folder = trained_on_digits
    cfg = get_cfg()
    cfg.merge_from_file(str(folder / "config.yaml"))
    cfg.DATASETS.TEST, cfg.INPUT.MIN_SIZE_TEST = (DIGITS_TEST,), 64
    (folder / "config.yaml").write_text(cfg.dump())
    command = ["bench", str(folder / "config.yaml"), "--form", "eager", "--form", "deployed"]
    assert main([*command, "--runs", "1", "--ap", "--output", str(folder / "bench")]) == 0
    found = json.loads((folder / "bench" / "bench.json").read_text())
    assert [set(row["ap"]) for row in found["rows"]] == [{"bbox", "segm"}] * 2
    assert found["rows"][0]["ap"] == found["rows"][1]["ap"]
    assert "segm AP" in capsys.readouterr().out
    assert (folder / "bench" / "bench.png").stat().st_size > 5000


def test_run_gives_a_script_its_arguments_and_the_overlay(tmp_path, monkeypatch, capsys):
    (tmp_path / "beside.py").write_text("word = 'found'\n")
    script = tmp_path / "train_net.py"
    script.write_text(
        "import sys, beside\n"
        "from detectron2.modeling.backbone.resnet import BasicBlock\n"
        "print(sys.argv[1:], __name__, beside.word, hasattr(BasicBlock(4, 8), 'norm1'))\n"
    )
    monkeypatch.setattr(sys, "argv", list(sys.argv))
    monkeypatch.setattr(sys, "path", list(sys.path))
    assert main(["run", str(script), "--num-gpus", "2", "KEY", "1"]) == 0
    assert "['--num-gpus', '2', 'KEY', '1'] __main__ found True" in capsys.readouterr().out


def test_run_takes_a_module_as_python_does(tmp_path, monkeypatch, capsys):
    (tmp_path / "own").mkdir()
    (tmp_path / "own/__init__.py").write_text("")
    (tmp_path / "own/beside.py").write_text("word = 'found'\n")
    (tmp_path / "own/train.py").write_text(
        "import argparse\n"
        "from . import beside\n"
        "from detectron2.modeling.backbone.resnet import BasicBlock\n"
        "parser = argparse.ArgumentParser()\n"
        "parser.add_argument('-m', '--more')\n"
        "print(parser.parse_args(), __name__, beside.word, hasattr(BasicBlock(4, 8), 'norm1'))\n"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", list(sys.argv))
    monkeypatch.setattr(sys, "path", list(sys.path))
    assert main(["run", "-m", "own.train", "-m", "2 ü"]) == 0
    assert "Namespace(more='2 ü') __main__ found True" in capsys.readouterr().out
    assert main(["run", "-m", "own.nothing"]) == 2
    assert "there is no module 'own.nothing'" in _sentence(capsys)


USER_CODE = """
from detectron2.config import CfgNode
from detectron2.data import DatasetMapper
from detectron2.modeling import META_ARCH_REGISTRY
from blendprune.data.digits import register_digits
from blendprune.modeling.blendmask import BlendMask

META_ARCH_REGISTRY.register(type("{name}", (BlendMask,), {{}}))
register_digits("{data}")

def add_my_config(cfg):
    cfg.MODEL.MINE = CfgNode({{"WIDTH": 8}})

def fail(cfg):
    raise RuntimeError("no such luck")

class Mapper(DatasetMapper):
    calls = 0

    def __call__(self, image):
        Mapper.calls += 1
        return super().__call__(image)
"""


def test_the_users_modules_keys_data_and_mapper_are_known(trained_on_digits, capsys, monkeypatch):
    trained, name = trained_on_digits, "usercode_of_a_test"
    forget_digits()
    code = USER_CODE.format(name="MyBlendMask", data=trained / "digits")
    (trained / f"{name}.py").write_text(code)
    config = yaml.safe_load((trained / "config.yaml").read_text())
    config["MODEL"] |= {"MINE": {"WIDTH": 8}, "META_ARCHITECTURE": "MyBlendMask"}
    config["MODEL"]["BASIS_MODULE"]["LOSS_ON"] = False
    (trained / "config.yaml").write_text(yaml.safe_dump(config))
    weights = {"model": torch.load(trained / "dense.pth")["model"]}
    torch.save(weights, trained / "dense.pth")  # its "struct" is of a BlendMask
    monkeypatch.chdir(trained)
    monkeypatch.setattr(sys, "path", list(sys.path))

    assert _plan(trained) == 2
    sentence = _sentence(capsys)
    assert "MODEL.MINE is no key of this config" in sentence
    assert sentence.endswith("or add it with --import MODULE:FUNCTION")
    assert _plan(trained, "--import", "json:loads") == 2
    assert "'json:loads' failed when it was called with the config (TypeError" in _sentence(capsys)
    assert _plan(trained, "--import", "json:nothing") == 2
    assert "the module json has no function 'nothing'" in _sentence(capsys)
    assert _plan(trained, "--import", "no_such_module") == 2
    assert "cannot import 'no_such_module' (ModuleNotFoundError" in _sentence(capsys)
    plain = ["MODEL.META_ARCHITECTURE", "YourBlendMask"]
    assert _plan(trained, "--import", f"{name}:add_my_config", *plain) == 2
    assert "import the module that registers it (--import MODULE)" in _sentence(capsys)

    flags = ["--import", f"{name}:add_my_config", "--mapper", f"{name}:Mapper"]
    tail = ["PRUNER.IMPORTANCE", "taylor", "PRUNER.RECONSTRUCT", False]
    assert _prune(trained, *flags, "--max-flops", 0.8, "--output", trained / "out", *tail) == 0
    assert sys.modules[name].Mapper.calls == 2
    config = yaml.safe_load((trained / "out/config.yaml").read_text())
    assert config["MODEL"]["MINE"] == {"WIDTH": 8}


WITHOUT_DETECTRON2 = """
import importlib.machinery, sys

class Others(importlib.machinery.PathFinder):
    @classmethod
    def find_spec(cls, name, *args):
        return None if name.partition(".")[0] == "detectron2" else super().find_spec(name, *args)

sys.meta_path[sys.meta_path.index(importlib.machinery.PathFinder)] = Others
from blendprune.__main__ import main
from blendprune.command_line.parser import GROUPS, make_parser
print(main(sys.argv[1:]))
"""


@pytest.mark.parametrize("command", ["doctor", "plan --config-file c.yaml", "info f.pth", "demo"])
def test_a_missing_detectron2_is_one_sentence_with_the_next_step(fresh_python, command):
    done = fresh_python(WITHOUT_DETECTRON2, *command.split())
    assert done.stdout == "2\n"
    assert done.stderr == (
        f"blendprune: detectron2 is not installed for {sys.executable}: build it for the PyTorch "
        "there, or install its wheel as docs/troubleshooting.md shows\n"
    )


def test_status_without_detectron2_lists_its_patches_as_missing(fresh_python):
    done = fresh_python(WITHOUT_DETECTRON2, "status")
    assert "detectron2, not installed" in done.stdout and done.stdout.endswith("\n0\n")


def test_another_missing_module_is_not_explained_away(tmp_path, monkeypatch):
    (tmp_path / "train.py").write_text("import no_such_module\n")
    monkeypatch.setattr(sys, "argv", list(sys.argv))
    monkeypatch.setattr(sys, "path", list(sys.path))
    with pytest.raises(ModuleNotFoundError, match="no_such_module"):
        main(["run", str(tmp_path / "train.py")])


def test_an_unknown_key_of_a_script_is_named_behind_its_traceback(tmp_path, monkeypatch, capsys):
    for name in ("argv", "path"):
        monkeypatch.setattr(sys, name, list(getattr(sys, name)))
    (tmp_path / "train.py").write_text(
        "import sys\nfrom detectron2.config import get_cfg\nget_cfg().merge_from_list(sys.argv[1:])"
    )
    assert main(["run", str(tmp_path / "train.py"), "PRUNER.MAX_FLOP", "0.5"]) == 2
    traceback, sentence = capsys.readouterr().err.split("blendprune: ")
    assert "train.py" in traceback and "AssertionError" in traceback
    assert sentence.startswith("PRUNER.MAX_FLOP is no key of this config (did you mean")
    assert "'PRUNER.MAX_FLOPS'" in sentence


def test_run_of_a_missing_script_is_named(capsys):
    assert main(["run", "no.py"]) == 2
    assert "there is no script 'no.py'" in _sentence(capsys)


def test_convert_needs_the_flag_for_a_pickled_module(trained, capsys):
    model = build_model_from(trained)
    fork = trained / "fork.pth"
    torch.save({"model": model.state_dict(), "struct": model}, fork)
    assert main(["convert", str(fork), str(trained / "plain.pth")]) == 2
    assert "--allow-pickle" in _sentence(capsys)
    assert main(["convert", "--allow-pickle", str(fork), str(trained / "plain.pth")]) == 0
    assert blendprune.load(str(trained / "plain.pth"))


def build_model_from(trained):
    return blendprune.load(str(trained / "dense.pth"))


def _sensitivity(trained, *args):
    return main(["sensitivity", "--config-file", str(trained / "config.yaml"), *map(str, args)])


@pytest.mark.slow
def test_sensitivity_is_measured_once_and_serves_every_target(trained_on_digits, capsys):
    trained = trained_on_digits
    path = trained / "new" / "sensitivity.json"
    assert _sensitivity(trained, "--output", path) == 0
    printed = capsys.readouterr().out
    assert "50 %" in printed and "reading 2 images" in printed
    assert f"prune with: --sensitivity {path}" in printed
    written = path.read_bytes()
    for target in (0.7, 0.5):
        out = trained / f"pruned{target}"
        flags = ["--max-flops", target, "--sensitivity", path, "--output", out]
        assert _prune(trained, *flags) == 0
        assert "sensitivity of group" not in capsys.readouterr().out
        report = json.loads((out / "report.json").read_text())
        assert 0.98 * target <= report["flops"]["after"] / report["flops"]["before"] <= target
    assert path.read_bytes() == written
    assert _sensitivity(trained, "--output", path, "--json") == 0
    assert json.loads(capsys.readouterr().out).items() <= json.loads(written).items()

    # Neither for another model nor from another file.
    weights = ["MODEL.WEIGHTS", trained / "pruned0.5/model_pruned.pth"]
    refused = ["--max-flops", 0.7, "--output", trained / "refused", "--sensitivity"]
    assert _prune(trained, *refused, path, *weights) == 2
    assert "was measured with other weights: measure it again" in _sentence(capsys)
    assert _prune(trained, *refused, trained / "config.yaml") == 2
    assert "as a measured sensitivity" in _sentence(capsys)
    assert not os.path.exists(trained / "refused" / "model_pruned.pth")


def test_sensitivity_without_images_asks_for_them_and_for_no_other_importance(trained, capsys):
    path = trained / "sensitivity.json"
    assert _sensitivity(trained, "--output", path, "DATASETS.TRAIN", "('nowhere',)") == 2
    sentence = _sentence(capsys)
    assert "cannot read training images of nowhere" in sentence and "magnitude" not in sentence
    assert _prune(trained, "--max-flops", 0.7, "--sensitivity", path) == 2
    assert "cannot read training images" in _sentence(capsys)
    assert not path.exists()


def test_quiet_and_json_leave_the_result_alone(trained, capsys):
    flags = ("--max-flops", 0.6, "--output", trained / "out")
    assert _prune(trained, *flags) == 0
    told = capsys.readouterr().out
    assert _prune(trained, *flags, "--quiet") == 0
    quiet = capsys.readouterr().out
    assert "- loading" in told and "- loading" not in quiet
    assert "FLOPs" in quiet and "fine-tune with: " in quiet
    assert _prune(trained, *flags, "--json") == 0
    report = json.loads((trained / "out/report.json").read_text())
    assert json.loads(capsys.readouterr().out).items() <= report.items()


def test_every_command_but_that_of_a_script_takes_both():
    for name in itertools.chain(*GROUPS.values()):
        flags = make_parser()._subparsers._group_actions[0].choices[name]._option_string_actions
        assert ({"--quiet", "--json"} <= flags.keys()) == (name != "run"), name


@pytest.mark.parametrize(
    "command, go_on",
    [
        (["prune", "--config-file", "config.yaml"], "give the same command again"),
        (
            ["run", "train_net.py"],
            "a pruning goes on with the same command, a training with --resume",
        ),
    ],
)
def test_an_interrupted_command_says_how_to_go_on(
    command, go_on, trained, monkeypatch, capsys, overlay
):
    monkeypatch.chdir(trained)
    (trained / "train_net.py").write_text("raise KeyboardInterrupt")
    monkeypatch.setattr("blendprune.pipeline.prune_from_config", _interrupt)
    assert main(command) == 130
    assert go_on in _sentence(capsys)


def test_a_reader_that_ends_early_gets_no_traceback():
    read, write = os.pipe()
    os.close(read)
    command = [sys.executable, "-m", "blendprune", "status"]
    with os.fdopen(write, "wb") as output:
        found = subprocess.run(command, stdout=output, stderr=subprocess.PIPE)
    assert found.returncode == 141 and b"Traceback" not in found.stderr


def _interrupt(*args, **kwargs):
    raise KeyboardInterrupt
