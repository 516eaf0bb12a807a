"""Config files merged without running code."""

import io
import os

import yaml
from detectron2.config import CfgNode

from ..errors import ConfigError
from .plain import MAX_CHARACTERS, read_plain_yaml


def merge_plain_file(cfg, path):
    """Do what ``cfg.merge_from_file(path)`` does, but run no code that the file names.

    The files that it builds on (``_BASE_``) are read in the same way, and lie on this machine.

    Args:
        cfg (CfgNode): changed in place.
        path (str): any path that detectron2's PathManager reads.

    Raises:
        Exception: what upstream raises, and what :func:`.plain.read_plain_yaml` raises; see
            :func:`.messages.explained`.
    """

    class Plain(CfgNode):
        @classmethod
        def _open_cfg(cls, filename):
            if filename != path and not os.path.isfile(filename):
                raise ConfigError(
                    f"it builds on {filename!r}, which is no file here: correct its _BASE_, or "
                    "download that file and name the copy"
                )
            with super()._open_cfg(filename) as file:
                return io.StringIO(yaml.safe_dump(read_plain_yaml(file.read(MAX_CHARACTERS + 1))))

    # Before the class's method, which reads with yaml.unsafe_load.
    vars(cfg)["load_yaml_with_base"] = lambda name, **_: Plain.load_yaml_with_base(name)
    try:
        cfg.merge_from_file(path)
    finally:
        del vars(cfg)["load_yaml_with_base"]
