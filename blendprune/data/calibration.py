"""Calibration images: a few batches of the training data."""

from ..checkpoint import first_line
from ..errors import ConfigError


def calibration_batches(cfg):
    """Read ``PRUNER.CALIBRATION_IMAGES`` training images, augmented as for training.

    Args:
        cfg (CfgNode): with DATASETS.TRAIN registered.

    Returns:
        list[list[dict]]: batches in detectron2's format, with ``"instances"``.

    Raises:
        ConfigError: the images cannot be read.
    """
    from detectron2.data import build_detection_train_loader
    from detectron2.utils.env import seed_all_rng

    from .mapper import DatasetMapperWithBasis

    per_batch = max(1, min(cfg.SOLVER.IMS_PER_BATCH, cfg.PRUNER.CALIBRATION_IMAGES, 8))
    seed_all_rng(max(cfg.SEED, 0))
    try:
        loader = build_detection_train_loader(
            cfg,
            mapper=DatasetMapperWithBasis(cfg, True),
            total_batch_size=per_batch,
            num_workers=0,
        )
        batches = iter(loader)
        return [next(batches) for _ in range(-(-cfg.PRUNER.CALIBRATION_IMAGES // per_batch))]
    except (KeyError, OSError, AssertionError, ValueError) as error:
        # A sensitivity needs the importance that it was measured with.
        or_else = ", or use PRUNER.IMPORTANCE magnitude, which needs no data."
        raise ConfigError(
            f"cannot read training images of {', '.join(cfg.DATASETS.TRAIN) or 'DATASETS.TRAIN'} "
            f"({first_line(error)}): register the dataset or set DETECTRON2_DATASETS"
            f"{'.' if cfg.PRUNER.SENSITIVITY else or_else}"
        ) from None
