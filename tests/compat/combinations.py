"""The combinations that are tried, and what each part of one stands for."""

import re
from dataclasses import dataclass, field
from pathlib import Path

from packaging.requirements import Requirement

ROOT = Path(__file__).parents[2]
#: Packages of AdelaiDet that the tests do not need otherwise.
ADELAIDET = ("scikit-image", "shapely", "editdistance", "rapidfuzz<3", "Polygon3")
# Where the newest release does not do; requirements.txt says why.
_PINNED = ("antlr4-python3-runtime", "setuptools", "timm")
# Of no use to the tests.
_TOOLS = ("import-linter", "mypy", "ruff", "uv")


@dataclass(frozen=True)
class Combination:
    """What runs together in one environment.

    Attributes:
        python (str): its version, as ``"3.12"``.
        packages (str): a key of :data:`PACKAGES`.
        detectron2 (str): a key of :data:`DETECTRON2`.
        adelaidet (bool): whether AdelaiDet is there.
    """

    python: str
    packages: str
    detectron2: str
    adelaidet: bool = False

    @property
    def name(self):
        """The name of its environment, as ``"py3.12-newest-main-adet"``."""
        parts = (f"py{self.python}", self.packages, self.detectron2)
        return "-".join((*parts, *(["adet"] if self.adelaidet else [])))


@dataclass(frozen=True)
class Detectron2:
    """A detectron2.

    Attributes:
        revision (str): of the checkout that ``DETECTRON2_ROOT`` names. Empty: the wheel of
            ``requirements-detectron2.txt``.
        compiled (bool): whether it needs its compiled part.
        needs (tuple[str]): requirements of its own.
        left_out (dict[str, str]): tests that cannot pass with it → why.
    """

    revision: str = ""
    compiled: bool = False
    needs: tuple = ()
    left_out: dict = field(default_factory=dict)


DETECTRON2 = {
    "wheel": Detectron2(),
    "main": Detectron2("HEAD"),
    "0.6": Detectron2(
        "v0.6",
        compiled=True,
        needs=("pillow<10",),  # it uses PIL.Image.LINEAR
        left_out={
            "tests/patches": "the patch set as text is for 0.7.2 and later",
            "tests/checkpoint/test_mismatch.py::"
            "test_a_model_of_a_lazy_config_knows_that_it_was_pruned": "0.6 cannot build the FCOS "
            "of this LazyConfig, with the overlay or without it",
        },
    ),
}


def setup_cfg(field):
    """Requirements or one value of ``setup.cfg``.

    Args:
        field (str): of its ``[options]``.

    Returns:
        list[str]: the lines of the value.
    """
    found = re.search(rf"^{field} =((?:.*\n)(?: .*\n)*)", (ROOT / "setup.cfg").read_text(), re.M)
    return found[1].split()


def _pins(file):
    """The requirements of a file, without pip's options and comments."""
    lines = (ROOT / file).read_text().splitlines()
    return [line for line in lines if line and not line.startswith(("#", "-"))]


def _newest():
    """What ``requirements.txt`` names, in the newest releases."""
    found = map(Requirement, _pins("requirements.txt"))
    return [str(r) if r.name in _PINNED else r.name for r in found if r.name not in _TOOLS]


def _oldest_torch():
    """As :func:`_newest`, but with the oldest PyTorch that ``setup.cfg`` allows."""
    oldest = {Requirement(pin).name: pin for pin in _pins("requirements-oldest.txt")}
    return [oldest[name] if name in ("torch", "torchvision") else name for name in _newest()]


#: Name → a function that returns the requirements.
PACKAGES = {
    "newest": _newest,
    "oldest": lambda: _pins("requirements-oldest.txt"),
    "oldest-torch": _oldest_torch,
}

#: What `make compat` tries. The releases of requirements-oldest.txt are for Python 3.10.
COMBINATIONS = [
    Combination(*row)
    for row in (
        ("3.10", "oldest", "wheel"),
        ("3.10", "oldest", "0.6"),
        ("3.10", "oldest", "main", True),
        ("3.10", "newest", "wheel"),
        ("3.11", "newest", "0.6"),
        ("3.11", "newest", "wheel", True),
        ("3.11", "newest", "main"),
        ("3.12", "newest", "wheel"),
        ("3.13", "oldest-torch", "wheel"),
        ("3.13", "newest", "wheel"),
        ("3.13", "newest", "main", True),
    )
]

#: What `make compat` runs in each, in two minutes of one core: the overlay, files, pruning,
#: fine-tuning, and an export where its packages are there.
TESTS = (
    "tests/config",
    "tests/structure",
    "tests/patches",
    "tests/overlay/test_adelaidet.py",
    "tests/overlay/test_deform_conv_patch.py",
    "tests/checkpoint/test_mismatch.py",
    "tests/checkpoint/test_reading.py",
    "tests/pruning/test_prune.py",
    "tests/pipeline/test_finetune.py",
    "tests/training/test_from_config.py",
    "tests/deployment/test_parts.py",
    "tests/deployment/test_precision.py",
    "tests/deployment/export/test_check.py",
)
