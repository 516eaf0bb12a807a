"""Pictures without labels: what a trained model finds in them serves as labels."""

import contextlib
import os
import tempfile

import numpy as np
import torch
from detectron2.data import DatasetCatalog, DatasetMapper, MetadataCatalog
from detectron2.structures import BoxMode
from PIL import Image
from pycocotools import mask as mask_util

from ..errors import ConfigError, first_line
from ..pruning.tracing.hooks import evaluating
from .calibration import calibration_batches

_NAME = "blendprune_pseudo_labels"
# Detections of a lower score are no labels.
_MIN_SCORE = 0.4


def batches_of_pictures(cfg, model, mapper=None):
    """Read calibration images from a folder of pictures: PRUNER.IMAGE_FOLDER.

    Args:
        cfg (CfgNode), model (nn.Module): as for :func:`pseudo_labelled`.
        mapper (Callable): as for :func:`.calibration.calibration_batches`.

    Returns:
        list[list[dict]]: batches in detectron2's format, augmented and labelled as in training.

    Raises:
        ConfigError: see :func:`pseudo_labelled`.
    """
    with pseudo_labelled(cfg, model) as labelled:
        return calibration_batches(labelled, mapper)


@contextlib.contextmanager
def pseudo_labelled(cfg, model):
    """Let the training set be the pictures in PRUNER.IMAGE_FOLDER, until the block ends.

    The labels are what the model detects: boxes, masks, keypoints, semantic maps. Pictures are
    taken evenly from the folder and those below it, PRUNER.CALIBRATION_IMAGES of them. A picture in
    which nothing is detected is left out.

    Args:
        cfg (CfgNode): of the model, with the keys of ``add_prune_config``.
        model (nn.Module): trained.

    Yields:
        CfgNode: a copy with another DATASETS.TRAIN, as many CALIBRATION_IMAGES as there are
        pictures, and masks as bitmaps.

    Raises:
        ConfigError: there are no pictures, one cannot be read, or the model finds nothing.
    """
    if cfg.MODEL.META_ARCHITECTURE == "PanopticDeepLab":
        raise ConfigError(
            "PRUNER.IMAGE_FOLDER: PanopticDeepLab learns from more than it predicts: leave the key "
            "empty and give labelled images in DATASETS.TRAIN"
        )
    paths = _pictures(cfg.PRUNER.IMAGE_FOLDER, cfg.PRUNER.CALIBRATION_IMAGES)
    with tempfile.TemporaryDirectory() as folder:
        records = _label(cfg, model, paths, folder)
        known = [MetadataCatalog.get(name).as_dict() for name in cfg.DATASETS.TRAIN[:1]]
        DatasetCatalog.register(_NAME, lambda: records)
        MetadataCatalog.get(_NAME).set(**{k: v for x in known for k, v in x.items() if k != "name"})
        cfg = cfg.clone()
        cfg.defrost()
        cfg.DATASETS.TRAIN, cfg.INPUT.MASK_FORMAT = (_NAME,), "bitmask"
        cfg.PRUNER.CALIBRATION_IMAGES = len(records)
        try:
            yield cfg
        finally:
            DatasetCatalog.remove(_NAME)
            MetadataCatalog.remove(_NAME)


def _pictures(folder, count):
    """At most so many pictures of a folder, evenly from all."""
    suffixes = tuple(Image.registered_extensions())
    found = sorted(
        os.path.join(place, name)
        for place, _, names in os.walk(folder)
        for name in names
        if name.lower().endswith(suffixes)
    )
    if not found:
        raise ConfigError(
            f"PRUNER.IMAGE_FOLDER: there are no pictures in {folder!r}: give a folder of the "
            "pictures that the model is used on"
        )
    count = min(count, len(found))
    return [found[i * len(found) // count] for i in range(count)]


def _label(cfg, model, paths, folder):
    mapper, records = DatasetMapper(cfg, is_train=False), []
    with evaluating(model):
        for number, path in enumerate(paths):
            try:
                given = mapper({"file_name": path, "image_id": number})
            except OSError as error:
                raise ConfigError(
                    f"PRUNER.IMAGE_FOLDER: {path!r} cannot be read ({first_line(error)}): remove it"
                ) from None
            record = {key: value for key, value in given.items() if key != "image"}
            [output] = model([given])
            record |= _labels_of(output, os.path.join(folder, f"{number}.png"))
            if record.get("annotations") != []:
                records.append(record)
    if not records:
        raise ConfigError(
            f"the model finds nothing of a score of {_MIN_SCORE} or more in the {len(paths)} "
            f"pictures of {cfg.PRUNER.IMAGE_FOLDER!r}: give pictures like those of its training"
        )
    return records


def _labels_of(output, path):
    """Labels of one picture in detectron2's format; a semantic map goes to a file at the path."""
    labels = {}
    if "sem_seg" in output:
        Image.fromarray(output["sem_seg"].argmax(0).to("cpu", torch.uint8).numpy()).save(path)
        labels["sem_seg_file_name"] = path
    if "instances" in output:
        found = output["instances"].to("cpu")
        found = found[found.scores >= _MIN_SCORE]
        labels["annotations"] = [_annotation(found, i) for i in range(len(found))]
    return labels


def _annotation(found, i):
    annotation = {
        "bbox": found.pred_boxes.tensor[i].tolist(),
        "bbox_mode": BoxMode.XYXY_ABS,
        "category_id": int(found.pred_classes[i]),
        "iscrowd": 0,
    }
    if found.has("pred_masks"):
        mask = found.pred_masks[i].numpy().astype(np.uint8)
        annotation["segmentation"] = mask_util.encode(np.asfortranarray(mask))
    if found.has("pred_keypoints"):
        points = found.pred_keypoints[i].clone()
        points[:, 2] = 2  # visible
        annotation["keypoints"] = points.flatten().tolist()
    return annotation
