"""A soak: one process trains, prunes, fine-tunes and loads, again and again, for a given time.

::

    python -m tests.soak --minutes 60

A cycle trains a small BlendMask on digit scenes with group sparsity, prunes it, fine-tunes it with
distillation from the emitted config, loads the last file, and runs it. After each cycle the
resident memory, the threads and the open files are counted. The first third of the time warms up.
The slope of the memory after that is a line through all of its cycles::

    cycles                  61, of which 40 after the warm-up
    resident memory         812 MB after the warm-up, 813 MB at the end
    slope                   0.02 MB a cycle, 1.2 MB an hour
    threads                 3 at the start, 3 at the end
    open files              9 at the start, 9 at the end

The exit code is 1 if the memory grows by more than half a megabyte a cycle, or threads or open
files are left over.
"""

import argparse
import contextlib
import ctypes
import gc
import io
import json
import logging
import os
import tempfile
import threading
import time
from pathlib import Path

import numpy as np
import torch

_MMAP_THRESHOLD = -3  # M_MMAP_THRESHOLD of malloc.h
_MAX_SLOPE = 0.5  # MB a cycle; a model of this size has 12 MB
_SCORES = ("obs", "taylor", "magnitude")
_QUICK = (
    *("SOLVER.MAX_ITER", 3, "SOLVER.IMS_PER_BATCH", 2, "SOLVER.WARMUP_ITERS", 2),
    *("INPUT.MIN_SIZE_TRAIN", (64,), "INPUT.MIN_SIZE_TEST", 64),
    *("PRUNER.CALIBRATION_IMAGES", 4, "PRUNER.ROUNDS", 2, "PRUNER.MAX_FLOPS", 0.6),
    *("MODEL.FPN.OUT_CHANNELS", 64, "MODEL.BASIS_MODULE.CONVS_DIM", 32),
    *("MODEL.RESNETS.STEM_OUT_CHANNELS", 32, "PRUNER.SPARSITY.STRENGTH", 0.1),
    *("PRUNER.SPARSITY.PERIOD", 2, "PRUNER.FINETUNE_DISTILL", True),
)


def cycle(folder, score):
    """Train, prune, fine-tune, load and run one model.

    Args:
        folder (str): for its files.
        score (str): the importance to prune by.
    """
    from detectron2.config import get_cfg

    import blendprune
    from blendprune.demo.story import CONFIG
    from blendprune.demo.trainer import DigitTrainer
    from blendprune.pipeline import prune_from_config

    cfg = get_cfg()
    cfg.merge_from_file(CONFIG)
    cfg.merge_from_list([*_QUICK, "PRUNER.IMPORTANCE", score])
    cfg.OUTPUT_DIR = os.path.join(folder, "dense")
    _train(DigitTrainer, cfg)
    cfg.MODEL.WEIGHTS = os.path.join(cfg.OUTPUT_DIR, "model_final.pth")
    prune_from_config(cfg, os.path.join(folder, "pruned"))
    tuned = get_cfg()
    tuned.merge_from_file(os.path.join(folder, "pruned", "config.yaml"))
    tuned.OUTPUT_DIR = os.path.join(folder, "tuned")
    _train(DigitTrainer, tuned)
    model = blendprune.load(os.path.join(tuned.OUTPUT_DIR, "model_final.pth"))
    with torch.no_grad():
        model([{"image": torch.rand(3, 64, 64) * 255}])


def _train(kind, cfg):
    os.makedirs(cfg.OUTPUT_DIR, exist_ok=True)
    trainer = kind(cfg)
    trainer.resume_or_load(resume=False)
    trainer.train()


def footprint():
    """What the process holds.

    Returns:
        dict: ``"mb"`` (resident memory, 10^6 bytes), ``"tensors_mb"`` (of it, tensors that Python
        holds), ``"threads"``, ``"files"`` (open ones).
    """
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)  # what malloc keeps for later is no leak
    storages = {
        each.untyped_storage().data_ptr(): each.untyped_storage().nbytes()
        for each in gc.get_objects()
        if type(each) in (torch.Tensor, torch.nn.Parameter) and each.device.type == "cpu"
    }
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return {
        "mb": round(pages * os.sysconf("SC_PAGE_SIZE") / 1e6, 1),
        "tensors_mb": round(sum(storages.values()) / 1e6, 2),
        "threads": threading.active_count(),
        "files": len(os.listdir("/proc/self/fd")),
    }


def soak(minutes, say=print):
    """Run cycles for some time.

    Args:
        minutes (float): how long; at least three cycles run.
        say (Callable): is told each cycle's footprint.

    Returns:
        list[dict]: ``"s"`` (since the start) and the footprint after each cycle.
    """
    from tests.helpers.digit_scenes import digit_scenes

    rows, start = [], time.time()
    with tempfile.TemporaryDirectory() as root, digit_scenes(Path(root), num_train=6):
        while len(rows) < 3 or time.time() - start < 60 * minutes:
            with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(io.StringIO()):
                cycle(folder, _SCORES[len(rows) % len(_SCORES)])
            rows.append({"s": round(time.time() - start, 1), **footprint()})
            say(json.dumps(rows[-1]))
    return rows


def slope(rows):
    """Growth of the memory in MB a cycle, by least squares.

    Args:
        rows (list[dict]): from :func:`soak`.
    """
    return float(np.polyfit(range(len(rows)), [row["mb"] for row in rows], 1)[0])


def summary(rows):
    """What a soak has shown.

    Args:
        rows (list[dict]): from :func:`soak`.

    Returns:
        tuple[str, bool]: a table, and whether the process is as it was.
    """
    warm = [row for row in rows if row["s"] > rows[-1]["s"] / 3]
    growth, hours = slope(warm), (rows[-1]["s"] - rows[0]["s"]) / 3600 / (len(rows) - 1)
    first, last = rows[0], rows[-1]
    lines = [
        f"{'cycles':24}{len(rows)}, of which {len(warm)} after the warm-up",
        f"{'resident memory':24}{warm[0]['mb']:.0f} MB after the warm-up, {last['mb']:.0f} MB at "
        "the end",
        f"{'slope':24}{growth:.2f} MB a cycle, {growth / hours:.1f} MB an hour",
        f"{'threads':24}{first['threads']} at the start, {last['threads']} at the end",
        f"{'open files':24}{first['files']} at the start, {last['files']} at the end",
    ]
    left = last["threads"] <= first["threads"] and last["files"] <= first["files"]
    return "\n".join(lines), growth < _MAX_SLOPE and left


def main():
    """Run a soak and print what it has shown."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.soak", description=__doc__.split("\n")[0]
    )
    parser.add_argument("--minutes", type=float, default=60)
    args = parser.parse_args()
    import blendprune
    from blendprune import modeling

    blendprune.apply()
    modeling.register()
    torch.set_num_threads(1)
    # Without it, malloc puts larger and larger blocks on its heap, which becomes patchy.
    ctypes.CDLL(None).mallopt(_MMAP_THRESHOLD, 1 << 17)
    logging.disable(logging.WARNING)
    text, flat = summary(soak(args.minutes, say=lambda line: print(line, flush=True)))
    print(text)
    return 0 if flat else 1


if __name__ == "__main__":
    raise SystemExit(main())
