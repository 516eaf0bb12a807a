"""Pruning inside the script that trained the model, by its own trainer or its own loop."""

import functools
import json
import os
import subprocess
import sys

import pytest
import torch
import yaml
from detectron2.checkpoint import DetectionCheckpointer
from detectron2.data import build_detection_train_loader
from detectron2.engine import DefaultTrainer, HookBase, create_ddp_model, defaults
from detectron2.modeling import build_model
from detectron2.utils import comm
from detectron2.utils.events import EventStorage

import blendprune
from blendprune import distributed
from blendprune.errors import CheckpointError, ConfigError
from blendprune.pipeline import script
from tests.helpers.processes import in_processes

TARGET = ("MODEL.PRUNE", True, "PRUNER.MAX_FLOPS", 0.7)


class Trainer(DefaultTrainer):
    """What a user's script has: a loader, an evaluation, and no word of blendprune."""

    batch = None
    read = 0
    tested = ()

    @classmethod
    def build_train_loader(cls, cfg):
        def endless():
            while True:
                cls.read += 1
                yield cls.batch

        return endless()

    @classmethod
    def test(cls, cfg, model, evaluators=None):
        size = sum(p.numel() for p in model.parameters())
        cls.tested += (size,)
        return {"bbox": {"AP": size / 1e6, "AP50": 0.0}, "segm": {"AP": float("nan")}}


class Loud(HookBase):
    def after_train(self):
        raise AssertionError("nothing was trained")


@pytest.fixture
def dense(registered, blendmask_cfg, training_batch, tmp_path):
    """A function that makes a script's config for a dense checkpoint; the tail overrides it."""
    Trainer.batch, Trainer.read, Trainer.tested = training_batch(), 0, ()
    DetectionCheckpointer(build_model(blendmask_cfg()), str(tmp_path)).save("dense")
    os.makedirs(tmp_path / "out")

    def make(*opts):
        return blendmask_cfg(
            *("MODEL.WEIGHTS", str(tmp_path / "dense.pth"), "OUTPUT_DIR", str(tmp_path / "out")),
            *("PRUNER.ROUNDS", 1, "PRUNER.CALIBRATION_IMAGES", 3, "PRUNER.RECONSTRUCT", False),
            *("PRUNER.IMPORTANCE", "magnitude", "SOLVER.MAX_ITER", 2, "DATASETS.TEST", ("own",)),
            *opts,
        )

    return make


def _run(cfg, load=True):
    trainer = Trainer(cfg)
    trainer.register_hooks([Loud()])
    if load:
        trainer.resume_or_load(resume=False)
    trainer.train()


def _ends(function, *args):
    with pytest.raises(SystemExit) as ended:
        function(*args)
    assert ended.value.code == 0


def test_a_trainer_prunes_on_its_loader_and_its_evaluation_instead_of_training(dense, tmp_path):
    _ends(_run, dense(*TARGET, "PRUNER.IMPORTANCE", "taylor"))
    out = tmp_path / "out"
    assert {"config.yaml", "model_pruned.pth", "report.json"} <= set(os.listdir(out))
    assert not (out / "model_final.pth").exists()
    assert Trainer.read == 2  # batches of two images; three images were wanted
    report = json.loads((out / "report.json").read_text())
    assert 0.68 <= report["flops"]["after"] / report["flops"]["before"] <= 0.7
    before, after = Trainer.tested
    assert before == report["params"]["before"] and after == report["params"]["after"]
    assert report["ap"] == {
        "dense": {"bbox": before / 1e6, "segm": None},
        "pruned": {"bbox": after / 1e6, "segm": None},
    }
    config = yaml.safe_load((out / "config.yaml").read_text())
    assert config["MODEL"]["FINETUNE"] is True and config["MODEL"]["PRUNE"] is False
    assert config["MODEL"]["WEIGHTS"] == str(out / "model_pruned.pth")
    pruned = blendprune.load(str(out / "model_pruned.pth"))
    assert sum(p.numel() for p in pruned.parameters()) == after


def test_a_pruned_file_is_pruned_again_from_its_own_widths(dense, tmp_path):
    _ends(_run, dense(*TARGET))
    first = json.loads((tmp_path / "out/report.json").read_text())
    os.makedirs(tmp_path / "again")
    opts = ("MODEL.WEIGHTS", str(tmp_path / "out/model_pruned.pth"))
    _ends(_run, dense(*TARGET, *opts, "OUTPUT_DIR", str(tmp_path / "again")))
    second = json.loads((tmp_path / "again/report.json").read_text())
    assert second["flops"]["before"] == first["flops"]["after"] > second["flops"]["after"]


def test_resuming_prunes_the_weights_that_the_script_resumes_from(dense, blendmask_cfg, tmp_path):
    cfg = dense(*TARGET)
    torch.manual_seed(1)
    resumed = build_model(blendmask_cfg())
    DetectionCheckpointer(resumed, cfg.OUTPUT_DIR).save("model_0000001", iteration=1)
    trainer = Trainer(cfg)
    trainer.resume_or_load(resume=True)
    _ends(trainer.train)
    found = torch.load(tmp_path / "out/model_pruned.pth")["model"]
    name = "backbone.bottom_up.stem.conv1.weight"
    theirs, other = resumed.state_dict()[name], torch.load(tmp_path / "dense.pth")["model"][name]
    # Filters are left out, never changed.
    filters = {tuple(each.flatten().tolist()) for each in theirs}
    assert {tuple(each.flatten().tolist()) for each in found[name]} <= filters
    assert not torch.equal(theirs, other)


def test_an_evaluation_that_fails_costs_the_ap_alone(dense, tmp_path, monkeypatch):
    monkeypatch.setattr(Trainer, "test", lambda self: {"bbox": {"AP": 1.0}})
    _ends(_run, dense(*TARGET))
    assert (tmp_path / "out/model_pruned.pth").exists()
    assert "ap" not in json.loads((tmp_path / "out/report.json").read_text())


def test_what_the_script_has_not_loaded_is_not_pruned(dense, tmp_path):
    with pytest.raises(ConfigError, match=r"other weights than .*trainer\.resume_or_load\(\)"):
        _run(dense(*TARGET), load=False)
    with pytest.raises(ConfigError, match="MODEL.WEIGHTS is empty"):
        _run(dense(*TARGET, "MODEL.WEIGHTS", ""))
    weights = torch.load(tmp_path / "dense.pth")["model"]
    partial = str(tmp_path / "backbone.pth")
    torch.save({"model": {k: v for k, v in weights.items() if "bottom_up" in k}}, partial)
    with pytest.raises(CheckpointError, match="set MODEL.WEIGHTS to the trained model"):
        _run(dense(*TARGET, "MODEL.WEIGHTS", partial))
    assert not (tmp_path / "out/model_pruned.pth").exists()


def test_without_an_evaluator_the_report_has_no_ap(dense, tmp_path):
    _ends(_run, dense(*TARGET, "DATASETS.TEST", ()))
    assert Trainer.tested == ()
    assert "ap" not in json.loads((tmp_path / "out/report.json").read_text())


def test_the_model_evaluates_as_it_did(dense):
    model = build_model(dense(*TARGET)).eval()
    assert not model.model_prune
    [found] = model([{"image": Trainer.batch[0]["image"]}])
    assert set(found) >= {"instances"}


def test_gradual_pruning_and_two_targets_are_refused(dense):
    with pytest.raises(ConfigError, match=r"PRUNER\.GRADUAL\.END prunes during the training"):
        _run(dense(*TARGET, "PRUNER.GRADUAL.END", 2))
    with pytest.raises(ConfigError, match="set exactly one"):
        _run(dense(*TARGET, "PRUNER.PRUNING_RATIO", 0.5))


@pytest.mark.parametrize("levels", [[], pytest.param([0.85], marks=pytest.mark.slow)])
def test_two_processes_prune_together_and_the_first_writes(dense, levels, tmp_path, monkeypatch):
    build = functools.partial(create_ddp_model, device_ids=None)
    monkeypatch.setattr(defaults, "create_ddp_model", build)
    monkeypatch.setattr(Trainer, "batch", Trainer.batch[:1])
    sensitivity, out = tmp_path / "sensitivity.json", tmp_path / "out"
    opts = (*TARGET, "PRUNER.IMPORTANCE", "taylor", "PRUNER.CALIBRATION_IMAGES", 2)
    if levels:
        opts += ("PRUNER.SENSITIVITY", str(sensitivity), "PRUNER.LEVELS", levels)
    cfg = dense(*opts)

    def work():
        if comm.get_rank() == 1:
            # Evaluators give their results in the first process alone.
            test = Trainer.test
            quiet = staticmethod(lambda cfg, model: test(cfg, model) and {})
            monkeypatch.setattr(Trainer, "test", quiet)
        written = []
        sys.addaudithook(lambda event, args: written.extend(_written(event, args, str(tmp_path))))
        _ends(_run, cfg)
        there = [os.listdir(folder) for folder in (out, *(out / str(x) for x in levels))]
        return written, there, Trainer.read, Trainer.tested

    first, second = in_processes(work, tmp_path / "processes")
    assert first[0] and not second[0]
    assert first[1:] == second[1:]
    files = {"config.yaml", "model_pruned.pth", "report.html", "report.json"}
    assert all(files <= set(folder) for folder in second[1])
    assert second[2] == 1 and len(second[3]) == 2 + len(levels)
    report = json.loads((out / "report.json").read_text())
    assert set(report["ap"]) == {"dense", "pruned"} and report["latency_ms"]
    assert not levels or json.loads(sensitivity.read_text())["images"] == 2
    pruned = blendprune.load(str(out / "model_pruned.pth"))
    assert sum(p.numel() for p in pruned.parameters()) == second[3][-1]


def _written(event, args, folder):
    """Paths in a folder that an audit event says are opened to write."""
    path, *rest = args if event == "open" else (None,)
    writes = isinstance(path, str) and rest[1] & (os.O_WRONLY | os.O_RDWR)
    return [path] if writes and path.startswith(folder) else []


def test_in_several_processes_an_evaluation_that_fails_ends_the_job(dense, tmp_path, monkeypatch):
    build = functools.partial(create_ddp_model, device_ids=None)
    monkeypatch.setattr(defaults, "create_ddp_model", build)

    def test(self, cfg, model):
        # The other process would wait inside the evaluator.
        comm.synchronize() if comm.get_rank() else {}["AP"]

    monkeypatch.setattr(distributed, "_LAST_WORDS", 0.1)
    monkeypatch.setattr(Trainer, "test", test)
    cfg = dense(*TARGET)
    first, second = in_processes(lambda: _run(cfg), tmp_path / "processes")
    assert isinstance(first, KeyError) and isinstance(second, RuntimeError)
    assert not (tmp_path / "out/model_pruned.pth").exists()


def test_the_call_in_a_script_does_nothing_unless_the_config_asks(dense):
    assert blendprune.prune_in_script(dense(), None, None) is None
    assert blendprune.prune_in_script(dense("MODEL.PRUNE", True), None, None) is None


def _loop(cfg, loader, *, fresh=lambda model: None):
    """A training loop of its own, as detectron2's tools/plain_train_net.py has."""
    from detectron2.solver import build_optimizer

    model = build_model(cfg)
    optimizer = build_optimizer(cfg, model)
    DetectionCheckpointer(model).load(cfg.MODEL.WEIGHTS)
    fresh(model)
    with EventStorage() as storage:
        for batch, storage.iter in zip(loader(cfg), range(cfg.SOLVER.MAX_ITER)):
            losses = sum(model(batch).values())
            optimizer.zero_grad()
            losses.backward()
            optimizer.step()
    return model


def _upstreams(cfg):
    return build_detection_train_loader(
        Trainer.batch, mapper=None, total_batch_size=2, aspect_ratio_grouping=False
    )


def test_a_loop_without_a_trainer_prunes_at_its_first_forward(dense, tmp_path, capsys):
    def evaluate(model):
        with torch.no_grad():
            model(Trainer.batch)

    _ends(lambda: _loop(dense(*TARGET), _upstreams, fresh=evaluate))
    assert (tmp_path / "out/model_pruned.pth").exists()
    assert "ap" not in json.loads((tmp_path / "out/report.json").read_text())


def test_a_loop_has_a_first_iteration_although_the_dense_training_has_ended(
    dense, blendmask_cfg, tmp_path
):
    for options, kept in ((TARGET, None), ((), 3)):
        cfg = dense(*options)
        DetectionCheckpointer(build_model(blendmask_cfg()), str(tmp_path)).save(
            "dense", iteration=3
        )
        found = DetectionCheckpointer(build_model(cfg)).load(cfg.MODEL.WEIGHTS)
        assert found.get("iteration") == kept


def test_a_loop_with_a_loader_of_its_own_is_told_the_line_to_add(dense):
    with pytest.raises(ConfigError, match=r"add blendprune\.prune_in_script\(cfg, model, data_"):
        _loop(dense(*TARGET), lambda cfg: [Trainer.batch])


def test_the_command_is_the_one_that_started_the_script(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["train net.py", "--config-file", "c.yaml"])
    python = ["/usr/bin/python3", "-m", "blendprune", "run", "train net.py"]
    monkeypatch.setattr(sys, "orig_argv", [*python, *sys.argv[1:]])
    wanted = "python3 -m blendprune run 'train net.py' --config-file p/config.yaml"
    assert script.command("--config-file", "p/config.yaml") == wanted
    python[1:3] = ["/usr/bin/blendprune"]
    monkeypatch.setattr(sys, "orig_argv", [*python, *sys.argv[1:]])
    wanted = "blendprune run 'train net.py' --config-file p/config.yaml"
    assert script.command("--config-file", "p/config.yaml") == wanted


TRAIN_NET = """
import argparse, os
from detectron2.config import get_cfg
from detectron2.data import DatasetMapper, build_detection_train_loader
from detectron2.engine import DefaultTrainer, default_setup
from detectron2.evaluation import COCOEvaluator
from blendprune.data.digits import register_digits

class Trainer(DefaultTrainer):
    @classmethod
    def build_train_loader(cls, cfg):
        return build_detection_train_loader(cfg, mapper=DatasetMapper(cfg, True))

    @classmethod
    def build_evaluator(cls, cfg, name):
        return COCOEvaluator(name, output_dir=os.path.join(cfg.OUTPUT_DIR, "inference"))

parser = argparse.ArgumentParser()
parser.add_argument("--config-file")
parser.add_argument("--data", required=True)
parser.add_argument("opts", nargs="*")
args = parser.parse_args()
register_digits(args.data)
cfg = get_cfg()
cfg.merge_from_file(args.config_file)
cfg.merge_from_list(args.opts)
default_setup(cfg, args)
trainer = Trainer(cfg)
trainer.resume_or_load(resume=False)
trainer.train()
"""


def test_a_script_prunes_and_fine_tunes_by_the_users_own_keys(dense, tmp_path):
    from blendprune.data.digits import DIGITS_TEST, DIGITS_TRAIN, write_digits

    folder = tmp_path / "größe 1"
    folder.mkdir()
    (folder / "train net.py").write_text(TRAIN_NET)
    data = write_digits(folder / "data", num_train=4, num_test=2, image_size=64)
    cfg = dense("DATASETS.TRAIN", (DIGITS_TRAIN,), "DATASETS.TEST", (DIGITS_TEST,))
    cfg.INPUT.MASK_FORMAT, cfg.INPUT.MIN_SIZE_TRAIN, cfg.SOLVER.IMS_PER_BATCH = "bitmask", (64,), 2
    cfg.MODEL.FCOS.NUM_CLASSES, cfg.MODEL.BASIS_MODULE.LOSS_ON = 10, False
    cfg.MODEL.BASIS_MODULE.NUM_CLASSES, cfg.DATALOADER.NUM_WORKERS = 10, 1
    DetectionCheckpointer(build_model(cfg), str(folder)).save("dense")
    cfg.MODEL.WEIGHTS = str(folder / "dense.pth")
    (folder / "dense.yaml").write_text(cfg.dump())

    def run(config, *opts):
        command = [sys.executable, "-W", "ignore", "-m", "blendprune", "run", "train net.py"]
        done = subprocess.run(
            [*command, "--data", str(data), "--config-file", config, *map(str, opts)],
            cwd=folder,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stderr[-3000:]
        return done.stdout

    said = run("dense.yaml", *TARGET, "OUTPUT_DIR", "out/prü 1")
    assert "blendprune run 'train net.py' --config-file 'out/prü 1/config.yaml'" in said
    report = json.loads((folder / "out/prü 1/report.json").read_text())
    assert set(report["ap"]["pruned"]) == {"bbox", "segm"}
    run("out/prü 1/config.yaml", "PRUNER.DISTILLATION.TEACHER", "")
    final = blendprune.load(str(folder / "out/prü 1/finetune/model_final.pth"))
    assert sum(p.numel() for p in final.parameters()) == report["params"]["after"]
