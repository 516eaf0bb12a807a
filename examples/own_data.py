"""Registers your own data in COCO's format, as ``own_train`` and ``own_test``.

The environment variable ``OWN_DATA`` names the folder::

    $OWN_DATA/annotations/train.json    $OWN_DATA/train/*.jpg
    $OWN_DATA/annotations/test.json     $OWN_DATA/test/*.jpg
"""

import os

from detectron2.data.datasets import register_coco_instances

if "OWN_DATA" in os.environ:
    root = os.environ["OWN_DATA"]
    for split in ("train", "test"):
        # The names of the classes are those of the file.
        annotations = os.path.join(root, "annotations", f"{split}.json")
        register_coco_instances(f"own_{split}", {}, annotations, os.path.join(root, split))
