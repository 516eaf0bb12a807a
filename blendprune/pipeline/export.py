"""From a config, or from a checkpoint alone, to exported files."""

from ..checkpoint.build import build_trained
from ..checkpoint.loading import load
from ..deployment.export import check_path, export
from ..errors import ConfigError
from ..progress import Progress


def export_from_config(cfg, path, progress=None):
    """Export the model at ``MODEL.WEIGHTS``; a pruned model keeps its widths.

    Args:
        cfg (CfgNode): config of the trained model.
        path (str): as for :func:`blendprune.export`.
        progress (Progress): hears of the stages.

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
    return _export(lambda: build_trained(cfg), cfg.MODEL.WEIGHTS, path, progress)


def export_checkpoint(weights, path, progress=None):
    """Export the model of a checkpoint that carries its ``"struct"``.

    Args:
        weights (str): path of the checkpoint.
        path (str), progress (Progress): as for :func:`export_from_config`.

    Returns:
        Exported: see :func:`blendprune.export`.

    Raises:
        ConfigError: the path is invalid.
        CheckpointError: the checkpoint cannot be read, or has no ``"struct"``.
        DeployError: the model cannot be exported.
    """
    check_path(path)
    return _export(lambda: load(weights, device="cpu"), weights, path, progress)


def _export(build, weights, path, progress):
    progress = progress or Progress()
    progress.stage(f"loading {weights}")
    model = build()
    progress.stage("exporting and checking")
    return export(model, path)
