"""Python in the documents: it compiles, and what it names of blendprune and upstream exists."""

import ast
import importlib
import inspect

import pytest

import blendprune
from tests.docs.pages import blocks

# Projects of detectron2 and modules of users, which examples name.
_ELSEWHERE = ("detectron2.projects",)


def _faults(source):
    """What a piece of code names and does not exist, or passes to a call that does not take it."""
    tree = ast.parse(source)
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                importlib.import_module(alias.name)
        elif isinstance(node, ast.ImportFrom) and not node.module.startswith(_ELSEWHERE):
            module = importlib.import_module(node.module)
            yield from (a.name for a in node.names if not _has(module, a.name))
        elif isinstance(node, ast.Attribute) and (path := _path(node)):
            if _found(path) is None:
                yield path
        elif isinstance(node, ast.Call) and (path := _path(node.func)):
            function = _found(path)
            parameters = inspect.signature(function).parameters if function else {}
            if not any(p.kind is p.VAR_KEYWORD for p in parameters.values()):
                yield from (k.arg for k in node.keywords if k.arg and k.arg not in parameters)


def _has(module, name):
    return hasattr(module, name) or importlib.util.find_spec(f"{module.__name__}.{name}")


def _path(node):
    """The dotted path of an expression that begins with ``blendprune``, or None."""
    names = []
    while isinstance(node, ast.Attribute):
        names.append(node.attr)
        node = node.value
    if not names or not isinstance(node, ast.Name) or node.id != "blendprune":
        return None
    return ".".join(["blendprune", *reversed(names)])


def _found(path):
    found = blendprune
    for name in path.split(".")[1:]:
        if not hasattr(found, name) and inspect.ismodule(found):
            if importlib.util.find_spec(f"{found.__name__}.{name}"):
                found = importlib.import_module(f"{found.__name__}.{name}")
                continue
        found = getattr(found, name, None)
    return found


@pytest.mark.parametrize("block", blocks("python"), ids=str)
def test_a_block_compiles_and_names_what_there_is(block):
    assert list(_faults(block.text)) == []


@pytest.mark.parametrize(
    "source",
    [
        "import blendprune\nblendprune.no()",
        "from blendprune import no",
        "blendprune.prune(model, max_flop=0.5)",
        "blendprune.training.No()",
        "from detectron2.data import no",
    ],
)
def test_a_name_that_is_not_there_is_found(source):
    assert list(_faults(source))


def test_blocks_are_found():
    assert len(blocks("python")) > 15
