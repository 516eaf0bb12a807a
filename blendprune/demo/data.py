"""Registers the scenes that the demo has drawn, as ``digits_train`` and ``digits_test``.

Commands import it before they read data, in the folder where the demo ran::

    blendprune eval --import blendprune.demo.data --weights output/demo/dense/model_final.pth
"""

import os

from ..data.digits import register_digits
from ..errors import ConfigError

SCENES = os.path.join("output", "demo", "digits")

if not os.path.isdir(SCENES):
    raise ConfigError(
        f"there are no scenes of the demo in {os.path.abspath(SCENES)}: run `blendprune demo` here "
        "first, without --output"
    )
register_digits(SCENES)
