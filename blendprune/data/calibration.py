"""Calibration images: a few batches of the training data."""

from ..errors import ConfigError, first_line


def training_mapper(cfg):
    """The dataset mapper that upstream's training script has for the architecture of a config.

    Args:
        cfg (CfgNode): of the training.

    Returns:
        Callable: dataset dict → input of the model. BlendMask's draws the labels of
        BASIS_MODULE.LOSS_ON itself; AdelaiDet's own would want files.
    """
    from detectron2.modeling import META_ARCH_REGISTRY

    from .mapper import DatasetMapperWithBasis, MapperOfAnyImage

    name = cfg.MODEL.META_ARCHITECTURE
    architecture = META_ARCH_REGISTRY.get(name) if name in META_ARCH_REGISTRY else None
    package = getattr(architecture, "__module__", "").partition(".")[0]
    if name == "BlendMask":
        return DatasetMapperWithBasis(cfg, True)
    if package == "adet":
        from adet.data.dataset_mapper import DatasetMapperWithBasis as OfAdelaiDet
        from adet.data.fcpose_dataset_mapper import FCPoseDatasetMapper

        return (FCPoseDatasetMapper if cfg.MODEL.FCPOSE_ON else OfAdelaiDet)(cfg, True)
    if name == "PanopticDeepLab":
        from detectron2.projects.panoptic_deeplab import PanopticDeeplabDatasetMapper

        return PanopticDeeplabDatasetMapper(cfg)
    return MapperOfAnyImage(cfg, True)


def calibration_batches(cfg, mapper=None, images=None, otherwise=None):
    """Read training images, augmented as for training, spread over the data sets.

    Args:
        cfg (CfgNode): with DATASETS.TRAIN registered.
        mapper (Callable): called as ``mapper(cfg, True)``; None: :func:`training_mapper`.
        images (int): how many. None: ``PRUNER.CALIBRATION_IMAGES``.
        otherwise (str): what to do without images, for the message. None: of pruning.

    Returns:
        list[list[dict]]: batches in detectron2's format, with ``"instances"``.

    Raises:
        ConfigError: the images cannot be read.
    """
    from detectron2.data import build_detection_train_loader
    from detectron2.utils.env import seed_all_rng

    images = images or cfg.PRUNER.CALIBRATION_IMAGES
    per_batch = max(1, min(cfg.SOLVER.IMS_PER_BATCH, images, 8))
    seed_all_rng(max(cfg.SEED, 0))
    try:
        loader = build_detection_train_loader(
            cfg,
            mapper=mapper(cfg, True) if mapper else training_mapper(cfg),
            total_batch_size=per_batch,
            num_workers=0,
        )
        batches = iter(loader)
        return [next(batches) for _ in range(-(-images // per_batch))]
    except (KeyError, OSError, AssertionError, ValueError) as error:
        if otherwise is None:
            # A sensitivity needs the importance that it was measured with.
            free = "or use PRUNER.IMPORTANCE magnitude, which needs no data"
            otherwise = "" if cfg.PRUNER.SENSITIVITY else free
        raise ConfigError(
            f"cannot read training images of {', '.join(cfg.DATASETS.TRAIN) or 'DATASETS.TRAIN'} "
            f"({first_line(error)}): register the dataset (for a command: in a module that "
            "--import names) or set DETECTRON2_DATASETS"
            f"{otherwise and ', '}{otherwise}."
        ) from None
