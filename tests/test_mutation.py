"""The mutants of a text, and the tests that are asked about them."""

import pytest

from tests.mutation import mutants_of
from tests.mutation import tests_of as files_of

MUTANTS = {
    "x < y": ["x < y -> x <= y"],
    "x < y == z": ["x < y == z -> x <= y == z", "x < y == z -> x < y != z"],
    "x + y": ["x + y -> x - y"],
    "x -= y": ["x -= y -> x += y"],
    "x and y": ["x and y -> x or y"],
    "not x": ["not x -> x"],
    "x[-1]": ["-1 -> 1", "1 -> 2"],
    "x = True": ["True -> False"],
    "x = None": [],
    "x = 'text'": [],
    "x = f'{1}'": [],
    "def f():\n    '''Text.'''\n    return x": ["return x -> return None"],
    "def f(x: 1 = 2) -> 3:\n    return": ["2 -> 3"],
    "@f(1)\ndef g():\n    pass": [],
    "x = y if z else 0": ["z -> not z", "0 -> 1"],
    "while f():\n    break": ["f() -> not f()", "break -> continue"],
    "min(x)": ["min(x) -> max(x)"],
    "import x": [],
}


@pytest.mark.parametrize("text", MUTANTS)
def test_every_part_that_decides_something_has_a_mutant(text):
    mutants = mutants_of("module.py", text)
    assert [mutant.change for mutant in mutants] == MUTANTS[text]
    assert all(mutant.source != text for mutant in mutants)


def test_a_mutant_is_the_whole_module_with_one_change():
    mutants = mutants_of("module.py", "a = 1\nb = a < 2\n")
    assert [(mutant.line, mutant.source) for mutant in mutants] == [
        (1, "a = 2\nb = a < 2"),
        (2, "a = 1\nb = a <= 2"),
        (2, "a = 1\nb = a < 3"),
    ]


def test_a_module_is_checked_by_the_tests_that_mirror_it():
    assert files_of("blendprune/structure/entries.py") == ["tests/structure/test_entries.py"]
    assert files_of("blendprune/pruning/search/rounds.py") == [
        "tests/pruning/search/test_rounds.py"
    ]
    # It has no file of its own.
    folder = files_of("blendprune/pruning/graph/__init__.py")
    assert "tests/pruning/graph/test_channel_graph.py" in folder
    assert folder == sorted(folder)
