"""Registration of data sets in COCO's format with detectron2."""

from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets import register_coco_instances


def register_split(name, classes, json_file, image_root):
    """Register one split; a call with another file replaces it.

    Args:
        name (str): for DATASETS.TRAIN or DATASETS.TEST.
        classes (list[str]): names of the categories, in the order of their ids.
        json_file (str): annotations in COCO's format.
        image_root (str): the folder with the images.
    """
    if name in DatasetCatalog.list():
        if MetadataCatalog.get(name).get("json_file") == json_file:
            return
        DatasetCatalog.remove(name)
        MetadataCatalog.remove(name)
    register_coco_instances(name, {"thing_classes": classes}, json_file, image_root)
