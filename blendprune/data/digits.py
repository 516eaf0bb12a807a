"""Digit scenes on disk, in COCO's format, and their registration with detectron2.

::

    write_digits("datasets/digits")                    write_digits("datasets", layout="coco")
    datasets/digits/                                   datasets/coco/
      digits.json         the arguments                  digits.json
      train/000001.png …                                 train2017/000001.png …
      test/000001.png …                                  val2017/000001.png …
      annotations/train.json                             annotations/instances_train2017.json
      annotations/test.json                              annotations/instances_val2017.json
                                                         thing_train2017/000001.npz …

The first layout is for `register_digits`. The second is for an unmodified train_net.py: detectron2
finds it as ``coco_2017_train`` and ``coco_2017_val`` if ``DETECTRON2_DATASETS`` names the folder.
AdelaiDet's mapper reads the semantic maps in ``thing_train2017`` for ``BASIS_MODULE.LOSS_ON``.
Masks are run-length encoded, so training needs ``INPUT.MASK_FORMAT bitmask``.
"""

import json
import os
from pathlib import Path

import numpy as np
from detectron2.data.datasets.builtin_meta import COCO_CATEGORIES
from iopath.common.file_io import file_lock
from PIL import Image
from pycocotools import mask as mask_utils

from ..errors import ConfigError
from ..files import staged
from .registration import register_split
from .scenes import NUM_CLASSES, draw_scene, split_scans

DIGITS_TRAIN, DIGITS_TEST = "digits_train", "digits_test"
# Increase this if the same arguments draw different scenes.
_VERSION = 1
_MANIFEST = "digits.json"
_LAYOUTS = {
    "digits": {"train": ("train", "train"), "test": ("test", "test")},
    "coco": {
        "train": ("train2017", "instances_train2017"),
        "test": ("val2017", "instances_val2017"),
    },
}


def write_digits(root, num_train=1000, num_test=200, image_size=128, seed=0, layout="digits"):
    """Draw the scenes and write them, unless they exist.

    The folder appears only when it is complete; after an interruption, the next run starts again.
    Scene ``i`` of a split depends only on the seed and the size, so a larger set begins with the
    smaller one.

    Args:
        root (str): the folder to write; with ``layout="coco"`` its subfolder ``coco``.
        num_train (int), num_test (int): number of scenes in each split.
        image_size (int): width and height in pixels.
        seed (int): selects the scans for testing, and all scenes.
        layout (str): "digits" or "coco", see above. "coco" uses COCO's 80 categories: digit d is
            category number d (0 is person, 9 is traffic light); the others are unused.

    Returns:
        str: the folder that holds the data.

    Raises:
        ConfigError: an argument is invalid, the folder has other contents, or it cannot be written.
    """
    if layout not in _LAYOUTS:
        raise ConfigError(f"layout is {layout!r}; choose one of {', '.join(_LAYOUTS)}.")
    if min(num_train, num_test) < 1 or image_size < 32:
        raise ConfigError(
            f"got {num_train} training and {num_test} test scenes of {image_size} pixels; each "
            "split needs at least 1 scene of at least 32 pixels."
        )
    folder = Path(root, "coco") if layout == "coco" else Path(root)
    folder = Path(os.path.abspath(folder))
    made_from = {
        "version": _VERSION,
        "num_train": num_train,
        "num_test": num_test,
        "image_size": image_size,
        "seed": seed,
        "layout": layout,
    }
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with file_lock(str(folder)):
            if not _is_complete(folder, made_from):
                _write_all(folder, made_from)
    except OSError as error:
        raise ConfigError(
            f"cannot write digit scenes to {folder} ({error.strerror}): choose another folder."
        ) from None
    return str(folder)


def register_digits(root):
    """Register ``digits_train`` and ``digits_test``; a call with another folder replaces them.

    Args:
        root (str): a folder written by `write_digits` with ``layout="digits"``.

    Raises:
        ConfigError: the folder has no digit scenes.
    """
    folder = Path(os.path.abspath(root))
    if not (folder / _MANIFEST).is_file() or not (folder / "annotations" / "train.json").is_file():
        raise ConfigError(
            f"{folder} holds no digit scenes; call write_digits({str(root)!r}) first."
        )
    for split, name in ("train", DIGITS_TRAIN), ("test", DIGITS_TEST):
        images, annotations = _LAYOUTS["digits"][split]
        json_file = str(folder / "annotations" / f"{annotations}.json")
        classes = [category["name"] for category in _categories("digits")]
        register_split(name, classes, json_file, str(folder / images))


def _is_complete(folder, made_from):
    manifest = folder / _MANIFEST
    if manifest.is_file():
        found = json.loads(manifest.read_text())
        if found == made_from:
            return True
        raise ConfigError(
            f"{folder} holds digit scenes made from {found}, not from {made_from}; "
            "choose another folder or delete that one."
        )
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ConfigError(
            f"{folder} exists and holds no digit scenes; choose another folder or delete that one."
        )
    return False


def _write_all(folder, made_from):
    with staged(str(folder)) as [partial]:
        _write_splits(Path(partial), made_from)
        Path(partial, _MANIFEST).write_text(json.dumps(made_from, indent=1) + "\n")


def _write_splits(folder, made_from):
    seed, layout = made_from["seed"], made_from["layout"]
    splits = zip(("train", "test"), split_scans(seed), strict=True)
    for number, (split, scans) in enumerate(splits, start=1):
        images, annotations = _LAYOUTS[layout][split]
        (folder / images).mkdir(parents=True)
        records = {"images": [], "annotations": [], "categories": _categories(layout)}
        for index in range(made_from[f"num_{split}"]):
            rng = np.random.default_rng([seed, number, index])
            scene = draw_scene(scans, rng, made_from["image_size"])
            _add_scene(records, scene, folder / images / f"{index + 1:06d}.png")
            if layout == "coco" and split == "train":
                _write_semantic_map(scene, folder / "thing_train2017" / f"{index + 1:06d}.npz")
        (folder / "annotations").mkdir(exist_ok=True)
        (folder / "annotations" / f"{annotations}.json").write_text(json.dumps(records))


def _add_scene(records, scene, path):
    Image.fromarray(scene.image).save(path)
    height, width = scene.image.shape[:2]
    image_id = len(records["images"]) + 1
    records["images"].append(
        {"id": image_id, "file_name": path.name, "height": height, "width": width}
    )
    codes = mask_utils.encode(np.asfortranarray(scene.masks.transpose(1, 2, 0), dtype=np.uint8))
    for code, label, scan in zip(codes, scene.labels, scene.scans, strict=True):
        records["annotations"].append(
            {
                "id": len(records["annotations"]) + 1,
                "image_id": image_id,
                "category_id": records["categories"][label]["id"],
                "bbox": mask_utils.toBbox(code).tolist(),
                "area": int(mask_utils.area(code)),
                "segmentation": {"size": code["size"], "counts": code["counts"].decode("ascii")},
                "iscrowd": 0,
                "scan": int(scan),
            }
        )


def _write_semantic_map(scene, path):
    """Write 0 for the background and label + 1 elsewhere, like AdelaiDet's preparation script."""
    path.parent.mkdir(exist_ok=True)
    semantic = np.zeros(scene.masks.shape[1:], np.uint8)
    for mask, label in zip(scene.masks, scene.labels, strict=True):
        semantic[mask] = label + 1
    np.savez_compressed(path, mask=semantic)


def _categories(layout):
    if layout == "coco":
        # detectron2's metadata of coco_2017_* requires these names in this order.
        return [{"id": c["id"], "name": c["name"]} for c in COCO_CATEGORIES if c["isthing"]]
    return [{"id": digit + 1, "name": str(digit)} for digit in range(NUM_CLASSES)]
