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
    write_page(path, reports, compare_test_images(cfg, models, data), next_commands(folder))


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


def next_commands(folder):
    """What to do with a pruned model.

    Args:
        folder (str): of its files.

    Returns:
        list[tuple[str, str]]: words, and a command.
    """
    config, tuned = (
        shlex.quote(os.path.join(folder, name))
        for name in ("config.yaml", "finetune/model_final.pth")
    )
    return [
        ("Fine-tune it with your own script:", f"python train_net.py --config-file {config}"),
        (
            "Export it for onnxruntime and OpenVINO:",
            f"blendprune export --config-file {config} --weights {tuned} --output model.onnx",
        ),
        ("Measure it in every form:", f"blendprune bench dense.pth {tuned} --ap --output bench"),
    ]
