"""From a config, or from a checkpoint alone, to exported files."""

from collections.abc import Callable
from typing import Any

from detectron2.config import CfgNode

from ..checkpoint.build import build_trained
from ..checkpoint.loading import load
from ..checks import check_count
from ..data.calibration import calibration_batches
from ..deployment.export import IMAGES, check_path, export
from ..deployment.export.exported import Exported
from ..errors import ConfigError
from ..progress import stage
from .bench import config_in

_KEY = "PRUNER.CALIBRATION_IMAGES"


def export_from_config(
    cfg: CfgNode,
    path: str,
    int8: bool = False,
    mapper: Callable[..., Any] | None = None,
) -> Exported:
    """Export the model at ``MODEL.WEIGHTS``; a pruned model keeps its widths.

    Args:
        cfg (CfgNode): config of the trained model.
        path (str): as for :func:`blendprune.export`.
        int8 (bool): as for :func:`blendprune.export`, on training images: 128, or
            ``PRUNER.CALIBRATION_IMAGES`` if these are more.
        mapper (Callable): dataset mapper of the training, called as ``mapper(cfg, True)``; None:
            the one that upstream's training scripts have for the architecture.

    Returns:
        Exported: see :func:`blendprune.export`.

    Raises:
        ConfigError: a key of the config or the path is invalid.
        CheckpointError: the weights cannot be read, or are not a trained model of this config.
        DeployError: the model cannot be exported.
    """
    check_path(path)
    if not cfg.MODEL.WEIGHTS:
        raise ConfigError("MODEL.WEIGHTS is empty: set it to the trained model, or pass --weights")
    stage(f"loading {cfg.MODEL.WEIGHTS}")

    return _export(build_trained(cfg), path, cfg if int8 else None, mapper)


def export_checkpoint(
    weights: str, path: str, int8: bool = False, mapper: Callable[..., Any] | None = None
) -> Exported:
    """Export the model of a checkpoint that carries its ``"struct"``.

    Args:
        weights (str): path of the checkpoint.
        path (str), int8 (bool), mapper (Callable): as for :func:`export_from_config`; the training
            images are those of the config in the checkpoint.

    Returns:
        Exported: see :func:`blendprune.export`.

    Raises:
        ConfigError: the path is invalid, or the images cannot be read.
        CheckpointError: the checkpoint cannot be read, or has no ``"struct"``.
        DeployError: the model cannot be exported.
    """
    check_path(path)
    stage(f"loading {weights}")
    model = load(weights, device="cpu")
    return _export(model, path, config_in(model) if int8 else None, mapper)


def _export(model, path, cfg, mapper):
    """Export a model, in int8 if a config names the images that it is calibrated on."""
    more = {}
    if cfg is not None:
        wanted = (cfg.get("PRUNER") or {}).get("CALIBRATION_IMAGES", IMAGES)
        images = max(IMAGES, check_count(_KEY, wanted))
        stage(f"reading {images} images of {', '.join(cfg.DATASETS.TRAIN)}")
        data = calibration_batches(cfg, mapper, images, "or export without int8")
        more = {"int8": True, "data": data, "images": images}
    stage("exporting and checking")
    return export(model, path, **more)
