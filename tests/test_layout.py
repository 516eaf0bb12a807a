"""The layout of the tests: it mirrors the package, and no test module imports another."""

import ast
from pathlib import Path

import pytest

TESTS = Path(__file__).parent
PACKAGE = TESTS.parent / "blendprune"
# What has no counterpart in the package.
OTHERS = {"benchmarks", "docs", "examples", "helpers", "patches", "zoo"}


def imported_names(source):
    """Dotted names of all modules, and of all that is imported from modules, in a source text."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from (f"{node.module or ''}.{alias.name}" for alias in node.names)


def of_test_modules(names):
    """The names that have a test module in their path."""
    return [name for name in names if any(part.startswith("test_") for part in name.split("."))]


def test_no_module_of_the_tests_imports_a_test_module():
    found = {
        str(path.relative_to(TESTS)): names
        for path in TESTS.rglob("*.py")
        if (names := of_test_modules(imported_names(path.read_text())))
    }
    assert found == {}


@pytest.mark.parametrize(
    "source",
    [
        "import test_prune",
        "from test_prune import WIDE",
        "from tests.pruning import test_prune",
        "from tests.pruning.test_prune import WIDE",
        "def late():\n    from .test_prune import WIDE",
    ],
)
def test_every_form_of_such_an_import_is_found(source):
    assert of_test_modules(imported_names(source))


def test_folders_are_those_of_the_package():
    folders = {path.parent.relative_to(TESTS) for path in TESTS.rglob("test_*.py")} - {Path()}
    strange = [
        str(folder)
        for folder in folders
        if folder.parts[0] not in OTHERS and not (PACKAGE / folder).is_dir()
    ]
    assert strange == []
