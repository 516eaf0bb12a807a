"""The front door: what the package exports, and what each error descends from."""

import inspect
import re
import subprocess
import sys
from pathlib import Path

import blendprune
from blendprune import errors


def test_every_public_name_can_be_had():
    for name in blendprune.__all__:
        assert getattr(blendprune, name) is not None
    assert blendprune.__all__ == sorted(blendprune.__all__)
    assert dir(blendprune) == blendprune.__all__


def test_neither_the_package_nor_its_parser_imports_what_takes_seconds():
    code = (
        "import sys, blendprune.command_line.parser as parser; parser.make_parser(); "
        "print({'torch', 'torchvision', 'detectron2', 'torch_pruning', 'numpy'} & {*sys.modules})"
    )
    root = Path(blendprune.__file__).parent.parent
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=True
    )
    assert done.stdout == "set()\n"


def test_the_version_is_that_of_the_citation_and_of_the_latest_changes():
    root = Path(blendprune.__file__).parent.parent
    heading = re.search(r"^## (.+)$", (root / "CHANGELOG.md").read_text(), re.M)[1]
    cited = re.search(r"^version: (.+)$", (root / "CITATION.cff").read_text(), re.M)[1]
    assert heading in ("Unreleased", blendprune.__version__) and cited == blendprune.__version__


def test_an_unknown_name_is_an_attribute_error():
    assert not hasattr(blendprune, "nothing")


def test_every_error_is_in_the_tree_and_documented_there():
    classes = [c for _, c in inspect.getmembers(errors, inspect.isclass)]
    assert all(issubclass(c, errors.BlendpruneError) for c in classes)
    assert all(c.__name__ in errors.__doc__ and c.__doc__ for c in classes)
