"""The full workflow on digit scenes: train, prune, fine-tune, evaluate, measure, reload.

It downloads nothing. It trains a dense BlendMask R-18 from scratch, prunes it to less than half of
its FLOPs, fine-tunes it as a user would (a config with ``MODEL.FINETUNE`` and a checkpoint), and
rebuilds it from its file in a new process. ::

    OUTPUT/digits/          the scenes, in COCO's format
    OUTPUT/dense/           model_final.pth, config.yaml, metrics.json
    OUTPUT/pruned/          model_pruned.pth, config.yaml, report.json of the pruning
    OUTPUT/finetuned/       model_final.pth (the best model), config.yaml, metrics.json
    OUTPUT/detections.png   test scenes: truth, dense model, fine-tuned model
    OUTPUT/report.json      all results
    OUTPUT/report.html      the same as a page, with test scenes
    OUTPUT/log.txt          detectron2's log
"""

import contextlib
import io
import json
import logging
import os
import time

import torch
from detectron2.config import get_cfg
from detectron2.data import DatasetCatalog, DatasetMapper, MetadataCatalog
from detectron2.utils.env import seed_all_rng
from detectron2.utils.logger import setup_logger
from pycocotools import mask as mask_utils

from .. import data, modeling
from ..checkpoint.loading import load
from ..data.digits import DIGITS_TEST, register_digits, write_digits
from ..errors import ConfigError
from ..pipeline import prune_from_config
from ..pipeline.page import Pictures, drawn, next_commands
from ..progress import LoggedProgress
from ..pruning.cost.latency import compare_latency
from ..report.page import prune_page
from ..training import KeepBest
from .picture import detections_picture
from .reload import are_identical, detections, outputs_in_new_process
from .trainer import DigitTrainer, EvaluationLog, ap_text, average_precisions

CONFIG = os.path.join(os.path.dirname(data.__file__), "digits.yaml")
NUM_TRAIN, NUM_TEST = 2000, 200
_STAGES = 6
_log = logging.getLogger(__name__)


def run(output, opts=(), num_train=NUM_TRAIN, num_test=NUM_TEST, quiet=False):
    """Run the demo. Call :func:`blendprune.apply` first.

    Args:
        output (str): output folder. Scenes that exist in it are used again.
        opts (Sequence): ``KEY VALUE`` pairs that override ``digits.yaml``.
        num_train (int), num_test (int): number of scenes to draw.
        quiet (bool): log to the file only.

    Returns:
        dict: the contents of ``report.json``: ``flops``, ``params``, ``latency_ms`` (each with
        ``before`` and ``after``), ``ap`` (``dense``, ``pruned``, ``finetuned``, each with ``segm``
        and ``bbox``), ``reloaded_identical``, ``wall_s``, ``stages_s`` (seconds per stage),
        ``threads``, ``device``.

    Raises:
        ConfigError: an override is invalid, or the folder cannot be written.
    """
    start = time.perf_counter()
    output = os.path.abspath(output)
    try:
        os.makedirs(output, exist_ok=True)
        open(os.path.join(output, "log.txt"), "w").close()
    except OSError as error:
        raise ConfigError(
            f"cannot write to the output folder {output!r} ({error.strerror}): choose another with "
            "--output."
        ) from None
    with _logs_to(os.path.join(output, "log.txt"), quiet):
        report, pictures, tuned = _run(output, list(opts), num_train, num_test)
    report["wall_s"] = round(time.perf_counter() - start, 1)
    with open(os.path.join(output, "report.json"), "w") as file:
        json.dump(report, file, indent=2)
    files = "dense/model_final.pth", "pruned/config.yaml", "finetuned/model_final.pth"
    paths = (os.path.join(output, name) for name in files)
    commands = next_commands(*paths, ["blendprune.demo.data:register"])
    page = drawn(prune_page, {"demo": report}, pictures.through(tuned), commands, pictures.missing)
    with open(os.path.join(output, "report.html"), "w", encoding="utf-8") as file:
        file.write(page)
    return report


def _run(output, opts, num_train, num_test):
    clock = _Clock()
    clock.stage(f"draw {num_train} + {num_test} scenes of handwritten digits")
    register_digits(write_digits(os.path.join(output, "digits"), num_train, num_test))

    modeling.register()
    cfg = get_cfg()
    cfg.merge_from_file(CONFIG)
    cfg.merge_from_list(opts)
    cfg.OUTPUT_DIR = os.path.join(output, "dense")
    clock.stage(f"train the dense model, {cfg.SOLVER.MAX_ITER} iterations")
    dense_ap = _train(cfg)[1]
    _log.info("dense: %s", ap_text(dense_ap))

    clock.stage(f"prune to {cfg.PRUNER.MAX_FLOPS:.0%} of the FLOPs")
    cfg.MODEL.WEIGHTS = os.path.join(cfg.OUTPUT_DIR, "model_final.pth")
    folder = os.path.join(output, "pruned")
    with LoggedProgress(_log.info).heard():
        pruned = prune_from_config(cfg, folder)

    # From here on only the written files are used, as for a user on another day.
    tuned_cfg = get_cfg()
    tuned_cfg.merge_from_file(os.path.join(folder, "config.yaml"))
    tuned_cfg.OUTPUT_DIR = os.path.join(output, "finetuned")
    clock.stage(f"evaluate, then fine-tune for {tuned_cfg.SOLVER.MAX_ITER} iterations")
    pruned_ap, tuned_ap = _train(tuned_cfg)
    _log.info("fine-tuned, the best of the evaluated models: %s", ap_text(tuned_ap))

    clock.stage("measure latency")
    paths = {
        "before": cfg.MODEL.WEIGHTS,
        "after": os.path.join(tuned_cfg.OUTPUT_DIR, "model_final.pth"),
    }
    models = {name: load(path) for name, path in paths.items()}
    images, truth = _test_scenes(tuned_cfg, 6)
    latency = compare_latency(models, [{"image": images[0]}], runs=25)

    clock.stage("reload the fine-tuned file in a new process and compare")
    found = {name: detections(model, images) for name, model in models.items()}
    again = outputs_in_new_process(paths["after"], images)
    detections_picture(
        os.path.join(output, "detections.png"),
        [image.flip(0) for image in images],  # detectron2 reads BGR
        {"truth": truth, "dense": found["before"], "fine-tuned": found["after"]},
        MetadataCatalog.get(DIGITS_TEST),
    )
    clock.stop()
    report = {
        **{key: pruned[key] for key in ("flops", "params", "layers", "flops_by_module")},
        "latency_ms": latency,
        "ap": {"dense": dense_ap, "pruned": pruned_ap, "finetuned": tuned_ap},
        "round_to": pruned["round_to"],
        "reloaded_identical": are_identical(found["after"], again),
        "stages_s": clock.seconds,
        "timed_on": "a test scene",
        "threads": torch.get_num_threads(),
        "device": tuned_cfg.MODEL.DEVICE,
    }
    return report, Pictures(cfg, models["before"]), models["after"]


def _train(cfg):
    """Train from MODEL.WEIGHTS; return the AP before (None unless it fine-tunes) and after."""
    os.makedirs(cfg.OUTPUT_DIR, exist_ok=True)
    with open(os.path.join(cfg.OUTPUT_DIR, "config.yaml"), "w") as file:
        file.write(cfg.dump())
    seed_all_rng(cfg.SEED)
    with _quiet():
        trainer = DigitTrainer(cfg)
        trainer.register_hooks([EvaluationLog()])
        trainer.resume_or_load(resume=False)
        after = average_precisions(trainer.train())
    kept = [hook.results[0] for hook in trainer._hooks if isinstance(hook, KeepBest)]
    return average_precisions(kept[0]) if kept else None, after


def _test_scenes(cfg, count):
    """Return the first test scenes: input images, and the truth in the form of detections."""
    mapper = DatasetMapper(cfg, is_train=False)
    images, truth = [], []
    for record in DatasetCatalog.get(DIGITS_TEST)[:count]:
        images.append(mapper(record)["image"])
        boxes = torch.tensor([each["bbox"] for each in record["annotations"]])
        masks = [mask_utils.decode(each["segmentation"]) for each in record["annotations"]]
        truth.append(
            {
                "boxes": torch.cat([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]], dim=1),
                "scores": torch.ones(len(boxes)),
                "classes": torch.tensor([each["category_id"] for each in record["annotations"]]),
                "masks": torch.stack([torch.from_numpy(mask).bool() for mask in masks]),
            }
        )
    return images, truth


class _Clock:
    """Logs the stages and measures their seconds."""

    def __init__(self):
        self.seconds, self.name = {}, None

    def stage(self, name):
        self.stop()
        _log.info("[%d/%d] %s", len(self.seconds) + 1, _STAGES, name)
        self.name, self.start = name, time.perf_counter()

    def stop(self):
        if self.name:
            self.seconds[self.name] = round(time.perf_counter() - self.start, 1)


@contextlib.contextmanager
def _logs_to(path, quiet):
    """Log stages and progress to the terminal and a file; log detectron2 to the file only."""
    on_terminal = dict.fromkeys(("detectron2", "fvcore", "py.warnings"), False)
    on_terminal["blendprune"] = not quiet
    loggers = {name: logging.getLogger(name) for name in on_terminal}
    before = {
        name: (each.handlers[:], each.level, each.propagate) for name, each in loggers.items()
    }
    logging.captureWarnings(True)
    try:
        for name, logger in loggers.items():
            logger.handlers.clear()
            setup_logger(path, name=name, configure_stdout=on_terminal[name])
        yield
    finally:
        logging.captureWarnings(False)
        for name, logger in loggers.items():
            logger.handlers[:], logger.level, logger.propagate = before[name]


def _quiet():
    """Silence pycocotools, which prints what detectron2 also logs as a table."""
    return contextlib.redirect_stdout(io.StringIO())
