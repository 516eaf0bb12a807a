"""Names of the configs, and the configs themselves."""

import os
import pathlib
import sys
import types

# Parts of other configs, a classifier, and a model of mmdetection.
_NO_DETECTOR = {"common", "torchvision_imagenet_R_50.py", "mmdet_mask_rcnn_R_50_FPN_1x.py"}


def config_names():
    """Names of all configs: detectron2's, and those of its projects and of AdelaiDet where
    DETECTRON2_ROOT and ADELAIDET_ROOT are set."""
    names = sorted(_names_under(_zoo_folder()))
    root = os.environ.get("DETECTRON2_ROOT")
    if root:
        for project in PROJECTS:
            folder = pathlib.Path(root) / "projects" / project / "configs"
            names += sorted(f"projects/{project}/configs/{n}" for n in _names_under(folder))
    root = os.environ.get("ADELAIDET_ROOT")
    if root:
        found = _names_under(pathlib.Path(root) / "configs")
        names += sorted(f"AdelaiDet/{name}" for name in found)
    return names


def _zoo_folder():
    import detectron2.model_zoo

    return pathlib.Path(detectron2.model_zoo.__file__).parent / "configs"


def _names_under(folder):
    paths = [p.relative_to(folder) for kind in ("yaml", "py") for p in folder.rglob(f"*.{kind}")]
    # What is named so is for others to build upon; most of them are no whole model.
    whole = (p for p in paths if not p.name.startswith("Base-"))
    return [str(p) for p in whole if not _NO_DETECTOR & set(p.parts)]


def load_config(name):
    """The config of that name, for the CPU and without weights.

    Returns:
        CfgNode | DictConfig: as upstream's ``get_cfg()`` merged with the file; of a LazyConfig
        the whole file.
    """
    from detectron2 import model_zoo
    from detectron2.config import LazyConfig, get_cfg

    if name.startswith("AdelaiDet/"):
        import adet.modeling  # noqa: F401  (registers)
        from adet.config import get_cfg

        path = os.path.join(os.environ["ADELAIDET_ROOT"], "configs", name.split("/", 1)[1])
    elif name.startswith("projects/"):
        path = os.path.join(os.environ["DETECTRON2_ROOT"], name)
    else:
        path = model_zoo.get_config_file(name)
    if name.endswith(".py"):
        return LazyConfig.load(path)
    cfg = get_cfg()
    project = PROJECTS.get(name.split("/")[1]) if name.startswith("projects/") else None
    if project is not None:
        project(cfg)
    cfg.merge_from_file(path)
    cfg.MODEL.DEVICE, cfg.MODEL.WEIGHTS = "cpu", ""
    return cfg


def _point_rend(cfg):
    from detectron2.projects.point_rend import add_pointrend_config

    add_pointrend_config(cfg)


def _deeplab(cfg):
    from detectron2.projects.deeplab import add_deeplab_config

    add_deeplab_config(cfg)


def _panoptic_deeplab(cfg):
    # What reads panoptic images from disk wants panopticapi, which is on no package index.
    sys.modules.setdefault("panopticapi", types.ModuleType("panopticapi"))
    utils = sys.modules.setdefault("panopticapi.utils", types.ModuleType("panopticapi.utils"))
    utils.__dict__.setdefault("rgb2id", None)
    from detectron2.projects.panoptic_deeplab import add_panoptic_deeplab_config

    add_panoptic_deeplab_config(cfg)


# Folders of upstream's projects/ that the zoo covers, and what adds their keys to a config.
PROJECTS = {
    "DeepLab": _deeplab,
    "MViTv2": None,
    "Panoptic-DeepLab": _panoptic_deeplab,
    "PointRend": _point_rend,
    "Rethinking-BatchNorm": None,
    "ViTDet": None,
}
