"""README.md and README.zh.md say the same: commands, figures, links and chapters."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
LANGUAGES = [(ROOT / name).read_text() for name in ("README.md", "README.zh.md")]


def rows_of(text):
    return [line for line in text.splitlines() if line.startswith("|")]


@pytest.mark.parametrize(
    "found",
    [
        lambda text: re.findall(r"^#+ ", text, re.M),
        lambda text: re.findall(r"```.*?```", text, re.S),
        lambda text: [len(row.split("|")) for row in rows_of(text)],
        lambda text: sorted(re.findall(r"\]\((?!README)[^)]*\)", text)),
        # Code and numbers, in any order: languages order words in their own way.
        lambda text: sorted(re.findall(r"`[^`\n]+`", text)),
        lambda text: [sorted(re.findall(r"\d+(?:\.\d+)*", row)) for row in rows_of(text)],
    ],
    ids=["chapters", "code blocks", "tables", "links", "code", "figures"],
)
def test_both_languages_have_the_same(found):
    english, chinese = map(found, LANGUAGES)
    assert english == chinese and english


def test_they_point_at_each_other():
    assert "(README.zh.md)" in LANGUAGES[0] and "(README.md)" in LANGUAGES[1]
