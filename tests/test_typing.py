"""The public names are annotated, and checkers see those that are imported late."""

import ast
import inspect
from pathlib import Path

import pytest

import blendprune

PACKAGE = Path(blendprune.__file__).parent


def seen_by_checkers():
    """Name → where it comes from, of the imports under TYPE_CHECKING in ``__init__.py``."""
    tree = ast.parse((PACKAGE / "__init__.py").read_text())
    [block] = [
        node
        for node in tree.body
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
    ]
    return {
        alias.name: "." + (line.module or "")
        for line in block.body
        if isinstance(line, ast.ImportFrom)
        for alias in line.names
    }


def signatures():
    """Every public function, and every public method of the public classes."""
    for name in blendprune.__all__:
        found = getattr(blendprune, name)
        if inspect.isclass(found):
            for method, each in inspect.getmembers(found, inspect.isroutine):
                if method in vars(found) and (method == "__init__" or method[0] != "_"):
                    yield f"{name}.{method}", each
        elif inspect.isfunction(found):
            yield name, found


SIGNATURES = dict(signatures())


def test_checkers_see_the_names_that_are_imported_late_where_they_are_found():
    late = set(blendprune.__all__) - {"errors"}
    homes = {name: blendprune._MODULES.get(name, ".pruning") for name in late}
    seen = seen_by_checkers()
    assert seen.keys() == late - {"distributed"}
    assert all(seen[name].startswith(homes[name]) for name in seen.keys() - {"runtime"})
    assert blendprune._MODULES.keys() <= late


@pytest.mark.parametrize("name", SIGNATURES)
def test_every_parameter_and_result_is_annotated(name):
    signature = inspect.signature(SIGNATURES[name])
    bare = [
        parameter.name
        for parameter in signature.parameters.values()
        if parameter.annotation is parameter.empty and parameter.name not in ("self", "cls")
    ]
    assert bare == [] and signature.return_annotation is not signature.empty


def test_the_typed_file_uses_every_public_name():
    text = (Path(__file__).parent / "typed_use.py").read_text()
    assert [name for name in blendprune.__all__ if f"blendprune.{name}" not in text] == []


def test_the_package_says_that_it_is_typed():
    assert (PACKAGE / "py.typed").read_text() == ""
