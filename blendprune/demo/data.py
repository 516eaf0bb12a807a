"""The scenes that the demo has drawn, for every other command.

Commands call it before they read data, in the folder where the demo ran::

    blendprune eval --import blendprune.demo.data:register \\
        --weights output/demo/dense/model_final.pth
"""

import os

from ..data.digits import register_digits
from ..errors import ConfigError

SCENES = os.path.join("output", "demo", "digits")


def register(cfg=None):
    """Register the scenes in the working directory as ``digits_train`` and ``digits_test``.

    Args:
        cfg (CfgNode): what ``--import MODULE:FUNCTION`` passes; it stays as it is.

    Raises:
        ConfigError: the demo has not run in the working directory.
    """
    if not os.path.isdir(SCENES):
        raise ConfigError(
            f"there are no scenes of the demo in {os.path.abspath(SCENES)}: run `blendprune demo` "
            "here first, without --output"
        )
    register_digits(SCENES)
