"""The data sets: digit scenes, and any folder in COCO's format."""

import json
import os
from dataclasses import dataclass, field

import yaml

from blendprune.data.digits import DIGITS_TEST, DIGITS_TRAIN, register_digits, write_digits
from blendprune.data.registration import register_split
from blendprune.data.scenes import NUM_CLASSES
from blendprune.demo.story import NUM_TEST, NUM_TRAIN
from blendprune.errors import ConfigError, first_line

# Section of a file of sizes that holds for every model; the others are meta architectures.
_ALL = "all"


@dataclass(frozen=True)
class Data:
    """A registered data set.

    Attributes:
        train (str), test (str): names for DATASETS.TRAIN and DATASETS.TEST.
        num_classes (int): foreground classes.
        sizes (dict): config keys for images and objects of its sizes, by meta architecture;
            ``"all"`` holds for each.
    """

    train: str
    test: str
    num_classes: int
    sizes: dict = field(default_factory=dict)

    def sizes_of(self, architecture):
        """Config keys for a MODEL.META_ARCHITECTURE, the more general ones first."""
        return [self.sizes[key] for key in (_ALL, architecture) if self.sizes.get(key)]


def digit_scenes(folder):
    """Draw the demo's scenes unless they exist, and register them."""
    register_digits(write_digits(folder, NUM_TRAIN, NUM_TEST))
    return Data(DIGITS_TRAIN, DIGITS_TEST, NUM_CLASSES)


def coco_folder(root, sizes=None):
    """Register ``ROOT/{train,val}`` with ``ROOT/annotations/{train,val}.json``.

    Args:
        root (str): the folder. Its name, without a leading dot, is that of the data set.
        sizes (str): YAML file with the sizes of images, levels and anchors; None: ``NAME.yaml``
            beside this module.

    Returns:
        Data: classes as in the annotations.

    Raises:
        ConfigError: the folder has another layout, or the file of sizes cannot be read.
    """
    root = os.path.abspath(root)
    name = name_of(root)
    classes = {}
    for split in ("train", "val"):
        classes[split] = _classes(os.path.join(root, "annotations", f"{split}.json"))
        if not os.path.isdir(os.path.join(root, split)):
            raise ConfigError(
                f"{root} has no folder {split!r}: put the images of that split there."
            )
    if classes["train"] != classes["val"]:
        raise ConfigError(
            f"the categories of {root} are {classes['train']} in train.json and {classes['val']} "
            "in val.json: give both files the same."
        )
    for split, found in classes.items():
        annotations = os.path.join(root, "annotations", f"{split}.json")
        register_split(f"{name}_{split}", found, annotations, os.path.join(root, split))
    return Data(f"{name}_train", f"{name}_val", len(found), _sizes(name, sizes))


def name_of(root):
    """Name of the data set in a folder."""
    return os.path.basename(os.path.abspath(root)).lstrip(".")


def _classes(path):
    try:
        with open(path) as file:
            categories = json.load(file)["categories"]
        found = [each["name"] for each in sorted(categories, key=lambda each: each["id"])]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ConfigError(
            f"cannot read {path} ({first_line(error)}): put annotations in COCO's format there."
        ) from None
    if not found:
        raise ConfigError(f"{path} has no categories: list at least one class of objects.")
    return found


def _sizes(name, path):
    path = path or os.path.join(os.path.dirname(__file__), f"{name}.yaml")
    try:
        with open(path) as file:
            found = yaml.safe_load(file)
    except (OSError, yaml.YAMLError) as error:
        raise ConfigError(
            f"cannot read the sizes of {name!r} from {path} ({first_line(error)}): write them as "
            "in benchmarks/accuracy/nuclei.yaml, and name the file with --sizes."
        ) from None
    if not isinstance(found, dict) or not all(isinstance(each, dict) for each in found.values()):
        raise ConfigError(
            f"{path} has no sections: write them as in benchmarks/accuracy/nuclei.yaml."
        )
    return found
