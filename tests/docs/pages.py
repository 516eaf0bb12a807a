"""The pages of the documents, and what is in them: code, commands, links, headings."""

import re
import shlex
import textwrap
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
_FENCE = re.compile(r"^( *)```(\w*)\n(.*?)^\1```$", re.M | re.S)


def pages():
    """All pages (dict[str, str]): path in the repository → text."""
    patterns = ("*.md", "docs/*.md", "benchmarks/*.md", "examples/**/*.md", "patches/*.md")
    found = [path for each in (*patterns, "tests/*.md") for path in sorted(ROOT.glob(each))]
    return {str(path.relative_to(ROOT)): path.read_text() for path in found}


@dataclass(frozen=True)
class Block:
    """A fenced block of code.

    Attributes:
        page (str): path of its page.
        line (int): where it begins.
        language (str): as the fence names it.
        text (str): without the fences.
    """

    page: str
    line: int
    language: str
    text: str

    def __str__(self):
        return f"{self.page}:{self.line}"


def blocks(*languages):
    """The fenced blocks of all pages in some languages (list[Block])."""
    return [
        Block(page, text[: match.start()].count("\n") + 1, match[2], textwrap.dedent(match[3]))
        for page, text in pages().items()
        for match in _FENCE.finditer(text)
        if match[2] in languages or not languages
    ]


def prose(text):
    """A page without its fenced blocks."""
    return _FENCE.sub("", text)


def inline_code(text):
    """What stands between backticks in a page, outside of blocks (list[str])."""
    return [each for _, each in re.findall(r"(`+)(.+?)\1(?!`)", prose(text))]


def commands(block):
    """The command lines of a shell block.

    Args:
        block (Block): of commands, or of commands behind ``$`` and their output.

    Returns:
        list[list[str]]: the words of each, without comments.
    """
    lines = block.text.replace("\\\n", " ").splitlines()
    if any(line.startswith("$ ") for line in lines):
        lines = [line[2:] for line in lines if line.startswith("$ ")]
    return [words for line in lines if (words := shlex.split(line, comments=True))]


def links(text):
    """Targets of the links and pictures of a page (list[str])."""
    without_code = re.sub(r"(`+)[^`].*?\1", "", prose(text))
    return re.findall(r"\]\(([^)\s]+)\)", without_code)


def anchors(text):
    """The anchors that GitHub, and the site, give to the headings of a page (set[str])."""
    found = []
    for heading in re.findall(r"^#+ (.*)$", prose(text), re.M):
        words = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading).lower()
        anchor = re.sub(r"[^\w\- ]", "", words).strip().replace(" ", "-")
        found.append(anchor if anchor not in found else f"{anchor}-{found.count(anchor)}")
    return set(found)
