"""Pages in English and Chinese say the same: commands, figures, links and chapters."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PAIRS = [(page, page.replace(".md", ".zh.md")) for page in ("README.md", "docs/quick-start.md")]
ENGLISH = {Path(page).name for page, _ in PAIRS}


def rows_of(text):
    return [line for line in text.splitlines() if line.startswith("|")]


def links_of(text):
    """Targets of the links, where a page in both languages counts as one."""
    targets = (target.replace(".zh.md", ".md") for target in re.findall(r"\]\(([^)]*)\)", text))
    # Headings of such a page have other anchors in the other language.
    return sorted(
        target.partition("#")[0] if Path(target.partition("#")[0]).name in ENGLISH else target
        for target in targets
    )


@pytest.mark.parametrize("pages", PAIRS, ids=lambda pages: pages[0])
@pytest.mark.parametrize(
    "found",
    [
        lambda text: re.findall(r"^#+ ", text, re.M),
        lambda text: re.findall(r"```.*?```", text, re.S),
        lambda text: [len(row.split("|")) for row in rows_of(text)],
        links_of,
        # Code and numbers, in any order: languages order words in their own way.
        lambda text: sorted(re.findall(r"`[^`\n]+`", text)),
        lambda text: [sorted(re.findall(r"\d+(?:\.\d+)*", row)) for row in rows_of(text)],
    ],
    ids=["chapters", "code blocks", "tables", "links", "code", "figures"],
)
def test_both_languages_have_the_same(pages, found):
    english, chinese = (found((ROOT / page).read_text()) for page in pages)
    assert english == chinese and english


@pytest.mark.parametrize("pages", PAIRS, ids=lambda pages: pages[0])
def test_they_point_at_each_other(pages):
    for page, other in (pages, pages[::-1]):
        assert f"({Path(other).name})" in (ROOT / page).read_text()


def test_every_page_in_chinese_has_its_pair():
    found = {str(path.relative_to(ROOT)) for path in (*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"))}
    assert {name for name in found if name.endswith(".zh.md")} == {chinese for _, chinese in PAIRS}
