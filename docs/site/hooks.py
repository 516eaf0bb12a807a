"""Hooks of the site: pages outside of ``docs/``, links as the repository has them, docstrings.

Pages link to files of the repository by relative paths, so that they can be read there. On the
site, a link to a page leads to the page. A link to another file leads to ``repo_url``; where none
is set, it is text.
"""

import os
import re
from pathlib import Path

from mkdocs.structure.files import File

ROOT = Path(__file__).parents[2]
# Pages that have their place elsewhere in the repository, and their names on the site.
OUTSIDE = {
    "README.md": "overview.md",
    "README.zh.md": "overview.zh.md",
    "CHANGELOG.md": "changelog.md",
    "CONTRIBUTING.md": "contributing.md",
    "benchmarks/README.md": "benchmarks.md",
    "examples/README.md": "examples.md",
    "patches/README.md": "patches.md",
    "tests/zoo.md": "zoo.md",
}
_PLACES = {name: path for path, name in OUTSIDE.items()}
_LINK = re.compile(r"(!?)\[((?:[^\[\]]|\[[^\]]*\])*)\]\(([^)\s]+)\)")
_CODE = re.compile(r"^(```+).*?^\1|(`+)[^`].*?\2", re.M | re.S)
_API = re.compile(r"<!-- api: (\S+) (\S+) -->")


def on_files(files, config):
    """Add the pages outside of ``docs/``, and the pictures that they show."""
    for path, name in OUTSIDE.items():
        files.append(File.generated(config, name, abs_src_path=str(ROOT / path)))
        for mark, _, target in _LINK.findall((ROOT / path).read_text()):
            picture = _place(path, target)
            if mark and picture and not picture.startswith("docs/"):
                source = str(ROOT / picture)
                files.append(File.generated(config, _on_site(picture), abs_src_path=source))
    return files


def on_page_markdown(markdown, page, config, files):
    """Turn links of the repository into links of the site, and marks into docstrings."""
    place = _PLACES.get(page.file.src_uri, f"docs/{page.file.src_uri}")
    code = [match.span() for match in _CODE.finditer(markdown)]

    def link(match):
        mark, text, target = match.groups()
        path = _place(place, target)
        if path is None or any(a <= match.start() < b for a, b in code):
            return match[0]
        anchor = target.partition("#")[1:]
        site = _on_site(path)
        if files.get_file_from_path(site) or not (ROOT / path).exists():
            return f"{mark}[{text}]({site}{''.join(anchor)})"
        return f"[{text}]({config.repo_url}/blob/main/{path})" if config.repo_url else text

    markdown = _LINK.sub(link, markdown)
    return _API.sub(r"::: \2\n    options:\n      heading: \1\n      toc_label: \1\n", markdown)


def _place(page, target):
    """The path in the repository that a link of a page leads to; None if it leads elsewhere."""
    target = target.partition("#")[0]
    if not target or ":" in target:
        return None
    return os.path.normpath(os.path.join(os.path.dirname(page), target))


def _on_site(path):
    if path in OUTSIDE:
        return OUTSIDE[path]
    return path.removeprefix("docs/") if path != "docs" else "README.md"
