"""From files of models to the measured table."""

import functools
import importlib.util
import json
import os

import torch

from ..checkpoint.build import build_trained
from ..checkpoint.loading import load
from ..config.defaults import default_cfg
from ..config.file import merge_plain_file
from ..config.messages import explained
from ..data.calibration import calibration_batches
from ..deployment.bench import bench, check_forms, draw_bench
from ..deployment.export import IMAGES
from ..errors import ConfigError, StructError, first_line
from ..files import make_writable
from ..progress import stage
from ..report.page import bench_page
from ..structure import config_of
from .evaluation import check_test_sets, evaluate
from .latencies import timing_inputs
from .page import drawn

_ALWAYS, _ENGINES = ("eager", "deployed"), ("onnxruntime", "openvino")


def bench_files(
    paths,
    *,
    forms=None,
    batch_sizes=(1,),
    size=None,
    runs=20,
    threads=None,
    network=False,
    with_ap=False,
    output=None,
):
    """Time the models of files in the forms that they are shipped in.

    Args:
        paths (Sequence[str]): of checkpoints that carry their ``"struct"`` and config, or of
            configs (.yaml) whose MODEL.WEIGHTS is set; the dense model first.
        forms (Sequence[str]): as for :func:`blendprune.bench`; None: eager, deployed, and the
            engines that are installed.
        batch_sizes (Sequence[int]), runs (int), threads (int), network (bool): as for
            :func:`blendprune.bench`.
        size (tuple[int, int]): height and width of an image of random pixels; None: the first image
            of DATASETS.TEST of the first model, or random pixels of the size in its config.
        with_ap (bool): evaluate every form on DATASETS.TEST of the first model.
        output (str): folder for ``bench.json`` and, with AP, ``bench.png``: AP over latency.

    Returns:
        dict: see :func:`blendprune.bench`; and ``"timed_on"``, which image, in words.

    Raises:
        ConfigError: an argument is invalid, or the data sets of the config are not registered.
        CheckpointError: a file cannot be read.
    """
    forms = forms or [*_ALWAYS, *filter(importlib.util.find_spec, _ENGINES)]
    needs_data = any(form.endswith("int8") for form in check_forms(forms))
    if output:
        make_writable(output)
    models = read_models(paths)
    cfg = config_in(next(iter(models.values())))
    if with_ap:
        check_test_sets(cfg)
    if size is None:
        inputs, words = timing_inputs(cfg, next(iter(models.values())))
    else:
        words, random = "random pixels", torch.Generator().manual_seed(0)
        inputs = [{"image": 255 * torch.rand(len(cfg.MODEL.PIXEL_MEAN), *size, generator=random)}]
    found = bench(
        models,
        inputs,
        forms=forms,
        batch_sizes=batch_sizes,
        runs=runs,
        threads=threads,
        network=network,
        data=_calibration(cfg) if needs_data else None,
        evaluate=functools.partial(evaluate, cfg) if with_ap else None,
    )
    found["timed_on"] = words
    if output:
        write_bench(found, output)
    return found


def write_bench(found, output):
    """Write a bench, and draw it if a form that ran was evaluated.

    Args:
        found (dict): from :func:`blendprune.bench`.
        output (str): folder for ``bench.json``, ``bench.html`` and ``bench.png``.
    """
    with open(os.path.join(output, "bench.json"), "w") as file:
        json.dump(found, file, indent=2)
    with open(os.path.join(output, "bench.html"), "w", encoding="utf-8") as file:
        file.write(drawn(bench_page, found))
    if any("ms" in row and row.get("ap") for row in found["rows"]):
        draw_bench(found, os.path.join(output, "bench.png"))


def read_models(paths):
    """Load the models of files.

    A plain checkpoint of detectron2 does not say which model it is of. Beside a file that was
    pruned from it, it is built from the config in that one.

    Args:
        paths (Sequence[str]): see :func:`bench_files`.

    Returns:
        dict[str, nn.Module]: by a short name, in the order of the paths, in eval mode.

    Raises:
        ConfigError: two have the same name, or one needs its config.
        CheckpointError: one cannot be read.
    """
    models, plain = {}, {}
    for path in paths:
        stage(f"loading {path}")
        name = _name(path, models)
        try:
            models[name] = _read(path)
        except StructError as error:
            models[name], plain[name] = None, (path, error)
    known = [model for model in models.values() if model is not None and config_of(model)]
    for name, (path, error) in plain.items():
        if not known:
            raise ConfigError(
                f"{path!r} does not say which model it is of ({first_line(error)}): give its "
                "config (.yaml) instead, with MODEL.WEIGHTS set to it, or name a file beside it "
                "that was pruned from it"
            )
        cfg = config_in(known[0])
        cfg.MODEL.WEIGHTS, cfg.MODEL.DEVICE = path, str(next(known[0].parameters()).device)
        models[name] = build_trained(cfg).eval()
    return models


def _read(path):
    if path.endswith((".yaml", ".yml")):
        cfg = default_cfg()
        with explained(f"the config file {path!r}", cfg):
            merge_plain_file(cfg, path)
        return build_trained(cfg).eval()
    return load(path)


def _calibration(cfg):
    return calibration_batches(cfg, images=IMAGES, otherwise="or leave out int8")


def config_in(model):
    """The config that a model of :func:`read_models` was built from."""
    from detectron2.config import CfgNode

    return CfgNode.load_cfg(config_of(model))


def _name(path, taken):
    """A short name: that of the file, with its folder if another file has the same."""
    folder, name = os.path.split(os.path.abspath(path))
    name = os.path.splitext(name)[0]
    if name in taken or name in ("config", "model_final"):
        name = os.path.join(os.path.basename(folder), name)
    if name in taken:
        raise ConfigError(f"two models are called {name!r}: give files of different names")
    return name
