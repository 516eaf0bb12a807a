"""AP of a callable on the test sets of a config, by detectron2's evaluators."""

import contextlib
import io
import itertools
import logging

from ..errors import ConfigError, error_line
from ..progress import Counted
from .metrics import main_metrics


def evaluate(cfg, run):
    """Evaluate what takes and gives what a model does.

    Args:
        cfg (CfgNode): DATASETS.TEST names the data sets; images are read as by detectron2's test
            loader.
        run (Callable): from list[dict] to list[dict]: a model in eval mode, a deployed copy, or
            what ``blendprune.runtime.load`` returns.

    Returns:
        dict[str, float | None]: task, or ``"data set/task"`` if there are several data sets → AP,
        PQ or mIoU, in percent.

    Raises:
        ConfigError: see :func:`check_test_sets`.
    """
    return main_metrics(evaluate_fully(cfg, run))


def evaluate_fully(cfg, run):
    """Evaluate, with every number that the evaluators give.

    Args:
        cfg (CfgNode), run (Callable): as for :func:`evaluate`.

    Returns:
        dict: task → metric → value; with several data sets, data set → task → metric → value.

    Raises:
        ConfigError: see :func:`check_test_sets`.
    """
    from detectron2.data import build_detection_test_loader
    from detectron2.evaluation import inference_on_dataset

    names, found = list(cfg.DATASETS.TEST), {}
    for name, evaluators in check_test_sets(cfg).items():
        with _quiet():
            loader = build_detection_test_loader(cfg, name)
            found[name] = inference_on_dataset(run, Counted(loader, "image"), evaluators)
    return found if len(names) > 1 else found[names[0]]


def check_test_sets(cfg):
    """Find the evaluators of all test sets.

    Args:
        cfg (CfgNode): DATASETS.TEST names them.

    Returns:
        dict[str, DatasetEvaluators]: by name.

    Raises:
        ConfigError: there is no test set, or one is not registered, cannot be read, or is of a kind
            that detectron2 has no evaluator for.
    """
    found = {}
    for name in test_sets(cfg):
        try:
            with _quiet():
                found[name] = evaluators_of(cfg, name)
        except ConfigError:
            raise
        except Exception as error:  # of files and parsers: many
            raise ConfigError(
                f"the data set {name!r} cannot be read ({error_line(error)}): set DATASETS.TEST to "
                "one that is on this machine, or DETECTRON2_DATASETS to its folder"
            ) from error
    return found


def test_sets(cfg):
    """Names of the test sets.

    Args:
        cfg (CfgNode): DATASETS.TEST names them.

    Returns:
        tuple[str]: one or more.

    Raises:
        ConfigError: there is none.
    """
    if not cfg.DATASETS.TEST:
        raise ConfigError("DATASETS.TEST is empty: name the data sets to evaluate on")
    return cfg.DATASETS.TEST


def check_registered(name):
    """Refuse a data set that is not registered, without detectron2's list of all that are.

    Args:
        name (str): of the data set.

    Raises:
        ConfigError: it is not registered.
    """
    from detectron2.data import DatasetCatalog

    if name not in DatasetCatalog.list():
        raise ConfigError(
            f"the data set {name!r} is not registered: register it in a module, and name that with "
            "--import"
        )


def first_images(cfg, count):
    """The first images of the first test set, as the network gets them.

    Args:
        cfg (CfgNode): DATASETS.TEST names the data set.
        count (int): most images.

    Returns:
        list[Tensor]: (C, H, W).

    Raises:
        ConfigError: there is no test set, or it is not registered.
        Exception: of the loader: the data set cannot be read.
    """
    from detectron2.data import build_detection_test_loader

    name = test_sets(cfg)[0]
    check_registered(name)
    loader = build_detection_test_loader(cfg, name, num_workers=0)
    batches = itertools.islice(loader, count)
    return [image["image"] for batch in batches for image in batch][:count]


def evaluators_of(cfg, name):
    """detectron2's evaluators for a data set, as its tools/train_net.py has them.

    Args:
        cfg (CfgNode): of the model.
        name (str): of a registered data set; its metadata says of which kind it is.

    Returns:
        DatasetEvaluators: of COCO's format: boxes, masks, keypoints, semantic and panoptic maps.

    Raises:
        ConfigError: it is not registered, or of another kind.
    """
    from detectron2.data import MetadataCatalog
    from detectron2.evaluation import (
        COCOEvaluator,
        COCOPanopticEvaluator,
        DatasetEvaluators,
        SemSegEvaluator,
    )

    check_registered(name)
    metadata = MetadataCatalog.get(name)
    kind = metadata.get("evaluator_type", "coco" if metadata.get("json_file") else None)
    made = []
    if kind in ("coco", "coco_panoptic_seg"):
        made.append(COCOEvaluator(name, output_dir=None, use_fast_impl=False))
    if kind in ("sem_seg", "coco_panoptic_seg"):
        made.append(SemSegEvaluator(name, distributed=False))
    if kind == "coco_panoptic_seg" and cfg.MODEL.PANOPTIC_FPN.COMBINE.ENABLED:
        made.append(COCOPanopticEvaluator(name))
    if not made:
        raise ConfigError(
            f"there is no evaluator for the data set {name!r} of kind {kind!r}: evaluate with your "
            "own script, or set MetadataCatalog's evaluator_type to coco or sem_seg"
        )
    return DatasetEvaluators(made)


@contextlib.contextmanager
def _quiet():
    """Hide the tables that evaluators print and log."""
    logger = logging.getLogger("detectron2")
    before = logger.level
    logger.setLevel(logging.WARNING)
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            yield
    finally:
        logger.setLevel(before)
