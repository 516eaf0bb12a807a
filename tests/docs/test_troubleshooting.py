"""``docs/troubleshooting.md`` explains every sentence of every error, and no other."""

import re

import pytest

from tests.docs import DOCS
from tests.docs.messages import sentences, sentences_of

TEXT = (DOCS / "troubleshooting.md").read_text()
ENTRY = re.compile(r"^> (`+) ?(.+?) ?\1\n\n((?:[^\n>#].*\n)+)", re.M)
ENTRIES = {match[2]: match[3] for match in ENTRY.finditer(TEXT)}
RAISED = sentences()


def test_every_sentence_is_explained():
    assert sorted(RAISED.keys() - ENTRIES) == []


def test_no_entry_is_of_a_sentence_that_is_gone():
    assert sorted(ENTRIES.keys() - RAISED) == []
    assert len(re.findall(r"^> ", TEXT, re.M)) == len(ENTRIES), "an entry stands twice"


def test_every_entry_stands_where_its_room_is_named():
    """A section says which rooms raise its errors."""
    for section in TEXT.split("\n## ")[2:]:
        rooms = set(re.findall(r"`(\w+)`", re.search(r"Raised in (.*)\.\n", section)[1]))
        for match in ENTRY.finditer(section):
            assert RAISED[match[2]] & rooms, (match[2], rooms)


def test_an_explanation_says_more_than_its_sentence():
    for sentence, explanation in ENTRIES.items():
        assert len(explanation.split()) > 3 and explanation.strip() not in sentence, sentence
        assert explanation.rstrip().endswith((".", "`", ")")), sentence


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("raise ConfigError('a b')", ["a b"]),
        ("raise errors.ConfigError(f'a {b!r}: ' f'{c}{d}')", ["a …: …"]),
        ("NEXT = 'do it'\nraise ConfigError(f'a: {NEXT}')", ["a: do it"]),
        ("def f():\n    return ConfigError('a')\nraise f()", ["a"]),
        ("def f():\n    return 'a'\ndef g():\n    raise PruningError(f())", ["a"]),
        (
            "def f():\n    why = self.g()\n    raise StructError(why)\ndef g():\n    return 'a'",
            ["a"],
        ),
        ("def refuse(kind):\n    raise kind('a')", ["a"]),
        ("from b import TEXT\nraise ConfigError(TEXT)", []),
        ("raise ValueError('a')", []),
    ],
)
def test_sentences_are_found_in_every_form(source, expected):
    assert sentences_of(source) == expected


def test_there_are_many():
    assert len(RAISED) > 200
