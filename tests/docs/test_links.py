"""Links between pages, and to files of the repository, lead somewhere; so do their anchors."""

import os
import re

import pytest

from tests.docs.pages import ROOT, anchors, links, pages

PAGES = pages()


def _broken(page, text):
    for link in links(text):
        path, _, anchor = link.partition("#")
        if ":" in path:
            continue
        target = os.path.normpath(os.path.join(os.path.dirname(page), path)) if path else page
        if not (ROOT / target).exists():
            yield link
        elif anchor and anchor not in anchors(PAGES.get(target, "")):
            yield link


@pytest.mark.parametrize("page", PAGES)
def test_every_link_of_a_page_leads_somewhere(page):
    assert list(_broken(page, PAGES[page])) == []


@pytest.mark.parametrize(
    "text", ["[a](no.md)", "[a](docs/README.md#no)", "![a](no.png)", "[a](#no)\n# Yes"]
)
def test_a_link_that_leads_nowhere_is_found(text):
    assert list(_broken("CHANGELOG.md", text))


def test_pages_are_found_and_have_links():
    assert len(PAGES) > 25 and sum(len(links(text)) for text in PAGES.values()) > 200


def test_the_anchors_are_those_of_github():
    text = "# A `b.c` d: e?\n## [x](y.md), 结果\n## Same\n## Same\n```\n# no\n```\n"
    assert anchors(text) == {"a-bc-d-e", "x-结果", "same", "same-1"}


def test_every_page_has_its_place_on_the_site():
    """Pages outside of docs/ get theirs by ``OUTSIDE`` in ``docs/site/hooks.py``."""
    nav = (ROOT / "mkdocs.yml").read_text().partition("\nnav:")[2]
    hooks = (ROOT / "docs/site/hooks.py").read_text()
    outside = dict(re.findall(r'^    "([\w./]+\.md)": "([\w.]+\.md)",$', hooks, re.M))
    assert outside and all((ROOT / path).exists() for path in outside)
    names = {path.removeprefix("docs/") for path in PAGES if path.startswith("docs/")}
    assert sorted(re.findall(r"[\w.-]+\.md", nav)) == sorted({*names, *outside.values()})
