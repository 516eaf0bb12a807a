"""Config files merged without running code."""

import io

import yaml
from detectron2.config import CfgNode

from .plain import read_plain_yaml


class _PlainFiles(CfgNode):
    """A config whose files, and the files that these build on, are plain data."""

    @classmethod
    def _open_cfg(cls, filename):
        with super()._open_cfg(filename) as file:
            return io.StringIO(yaml.safe_dump(read_plain_yaml(file.read())))


def merge_plain_file(cfg, path):
    """Do what ``cfg.merge_from_file(path)`` does, but run no code that the file names.

    Args:
        cfg (CfgNode): changed in place.
        path (str): any path that detectron2's PathManager reads.

    Raises:
        Exception: what upstream raises, and what :func:`.plain.read_plain_yaml` raises; see
            :func:`.messages.explained`.
    """
    # Before the class's method, which reads with yaml.unsafe_load.
    vars(cfg)["load_yaml_with_base"] = lambda name, **_: _PlainFiles.load_yaml_with_base(name)
    try:
        cfg.merge_from_file(path)
    finally:
        del vars(cfg)["load_yaml_with_base"]
