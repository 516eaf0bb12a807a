"""``report.html`` of a prune: its numbers, and test images through both models."""

import itertools
import logging
import os
import shlex

from ..errors import error_line
from ..pruning.tracing.hooks import evaluating
from ..report.images import compare_images
from ..report.page import write_page

_log = logging.getLogger(__name__)

_IMAGES = 3


def write_prune_page(path, cfg, models, reports, data, folder):
    """Write the page of a prune.

    Args:
        path (str): to write to.
        cfg (CfgNode): of the dense model; images come from its first test set, and from ``data`` if
            that cannot be read.
        models (tuple[nn.Module, nn.Module]): the dense one and the pruned one.
        reports (dict[str, dict]): name → report; the last one is this prune's.
        data (list[list[dict]] | None): batches of the training.
        folder (str): where the files of the prune are going to be.
    """
    config, tuned = (
        os.path.join(folder, name) for name in ("config.yaml", "finetune/model_final.pth")
    )
    commands = [
        ("Fine-tune it with your own script:", _line("python train_net.py --config-file", config)),
        *next_commands(cfg.MODEL.WEIGHTS, config, tuned),
    ]
    write_page(path, reports, compare_test_images(cfg, models, data), commands)


def compare_test_images(cfg, models, data=None):
    """Draw what two models find in a few images.

    Args:
        cfg (CfgNode), models (tuple[nn.Module, nn.Module]), data (list[list[dict]] | None): as for
            :func:`write_prune_page`.

    Returns:
        Sequence[Comparison]: empty, with a line in the log, if this fails for any reason.
    """
    try:
        images = _images(cfg, data)
        with evaluating(models[0]), evaluating(models[1]):
            return compare_images(cfg, models, images)
    except Exception as error:  # of loaders, models and drawing: many
        _log.warning("the report has no pictures (%s)", error_line(error))
        return ()


def _images(cfg, data):
    from detectron2.data import build_detection_test_loader

    try:
        loader = build_detection_test_loader(cfg, cfg.DATASETS.TEST[0], num_workers=0)
        batches = list(itertools.islice(loader, _IMAGES))
    except Exception:  # the test set may be on another machine
        batches = data or []
    return [image["image"] for batch in batches for image in batch][:_IMAGES]


def next_commands(dense, config, tuned):
    """What to do with a fine-tuned model.

    Args:
        dense (str): weights of the dense model.
        config (str): of the pruned one.
        tuned (str): its weights after the fine-tuning.

    Returns:
        list[tuple[str, str]]: words, and a command.
    """
    export = _line("blendprune export --config-file", config, "--weights", tuned)
    return [
        ("Export it for onnxruntime and OpenVINO:", f"{export} --output model.onnx"),
        ("Measure it in every form:", _line("blendprune bench", dense, tuned, "--ap")),
    ]


def _line(command, *arguments):
    return " ".join([command, *map(shlex.quote, arguments)])
