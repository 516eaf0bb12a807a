"""Pages that are written from the source are what ``python -m tests.docs`` writes now."""

import re

import pytest
from detectron2.config import CfgNode

import blendprune
from blendprune.config import add_prune_config
from tests.docs import DOCS, api, drawings, generated
from tests.docs.configuration import keys

PAGES = generated()


@pytest.mark.parametrize("name", PAGES)
def test_the_page_is_up_to_date(name):
    assert (DOCS / name).read_text() == PAGES[name], "run python -m tests.docs"


def _leaves(node, prefix=""):
    for key, value in node.items():
        if isinstance(value, CfgNode) and value:
            yield from _leaves(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def test_every_key_is_listed_with_its_default_and_a_comment():
    cfg = CfgNode({"MODEL": CfgNode()})
    add_prune_config(cfg)
    listed = {key.name: key for key in keys() if key.name and key.default}
    assert {name: repr(value) for name, value in _leaves(cfg)}.keys() == listed.keys()
    for name, value in _leaves(cfg):
        default = {} if isinstance(value, CfgNode) else value
        assert listed[name].default == repr(default).replace("'", '"')
        assert len(listed[name].comment) > 10, name


def test_every_public_name_is_in_the_api():
    assert set(blendprune.__all__) - {name.split(".")[0] for name in api.names()} == set()
    listed = re.findall(r"<!-- api: (\S+) (\S+) -->", PAGES["api.md"])
    assert len(listed) == len(api.names()) > 40


def test_every_command_has_its_section():
    page = PAGES["command-reference.md"]
    assert len(re.findall(r"^### ", page, re.M)) == 13 and "||" not in page


def test_every_drawing_is_drawn_and_shown(tmp_path):
    names = {path.name for path in drawings.draw_all(tmp_path)}
    page = (DOCS / "how-it-works.md").read_text()
    assert names == set(re.findall(r"\]\((\S+\.svg)\)", page))
    assert all((DOCS / name).stat().st_size > 10_000 for name in names)
