"""Commands and configs in the documents: the parser takes them, and what they name exists."""

import importlib.util
import re
from configparser import ConfigParser

import pytest
import yaml
from detectron2.config import get_cfg

import blendprune
from blendprune import modeling
from blendprune.command_line.parser import parse
from blendprune.errors import BlendpruneError
from tests.docs.commands import parsers
from tests.docs.pages import ROOT, blocks, commands, inline_code, pages

# Scripts and folders of the reader.
_READERS = {"train_net.py", "tools/train_net.py", "/path/to/datasets"}
# Flags of upstream's scripts.
_UPSTREAM = {"--resume", "--eval-only", "--num-gpus", "--num-machines", "--machine-rank"}
# Programs that a reader has.
_KNOWN = (".", "cd", "eval", "export", "for", "done;", "curl", "pytest", "uvicorn")
_KEY = re.compile(r"^[A-Z][A-Z_0-9]+(\.[A-Z_0-9]+)+$")


@pytest.fixture(scope="module")
def keys():
    """The keys of detectron2, BlendMask and blendprune."""
    with blendprune.applied():
        modeling.register()
        return set(_leaves(get_cfg()))


def _leaves(node, prefix=""):
    for key, value in node.items():
        yield prefix + key
        if hasattr(value, "items"):
            yield from _leaves(value, f"{prefix}{key}.")


def _fault(words, folder):
    """What is wrong with a command, as text; empty if nothing is."""
    program, *rest = [word for word in words if not re.fullmatch(r"[A-Z_]+=\S*", word)]
    if program == "blendprune":
        return _wrong_arguments(rest)
    if program == "make":
        targets = re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.M)
        return next((f"no target {each}" for each in rest if each not in targets), "")
    if program == "pip":
        extras = re.findall(r"\[(\w+)\]", " ".join(rest))
        setup = ConfigParser()
        setup.read(ROOT / "setup.cfg")
        known = setup["options.extras_require"]
        return next((f"no extra {each}" for each in extras if each not in known), "")
    if program == "python" and rest[0] == "-m":
        return "" if importlib.util.find_spec(rest[1]) else f"no module {rest[1]}"
    if program in ("python", "sh"):
        there = rest[0] in _READERS or any((each / rest[0]).exists() for each in (folder, ROOT))
        return "" if there else f"no script {rest[0]}"
    return "" if program in _KNOWN else f"an unknown program {program}"


def _wrong_arguments(arguments):
    if "--version" in arguments or "--help" in arguments:
        return ""
    try:
        args = parse(arguments)
    except BlendpruneError as error:
        return str(error)
    tail = [*getattr(args, "opts", []), *(args.args if "--eval-only" not in args.args else [])]
    odd = _KEY.match(tail[0]) and len(tail) % 2 if tail else False
    return f"a key without a value in {tail}" if odd else ""


def _named(text):
    return {word for word in re.findall(r"[\w.]+", text) if _KEY.match(word)}


@pytest.mark.parametrize("block", blocks("sh", "bash", ""), ids=str)
def test_a_command_of_a_block_is_one_that_can_be_typed(block, keys):
    found = commands(block) if block.language or "$ " in block.text else []
    folder = (ROOT / block.page).parent
    assert [fault for words in found if (fault := _fault(words, folder))] == []
    words = {word for command in found for word in command if _KEY.match(word)}
    assert words - keys == set()


@pytest.mark.parametrize("page", pages())
def test_a_page_names_keys_flags_and_commands_that_there_are(page, keys):
    code = inline_code(pages()[page])
    named = {word for each in code for word in _named(each) if word.split(".")[0] in ROOTS}
    assert {name for name in named if name.rstrip(".") not in keys} == set()
    for each in code:
        words = each.split()
        if words[0] == "blendprune" and len(words) > 1 and not words[1].startswith("--"):
            assert words[1] in {*parsers(), "COMMAND"}, each
    if not page.startswith("benchmarks/"):
        ours = [each for each in code if not each.startswith("python -m")]
        flags = {word for each in ours for word in re.findall(r"(?<![\w-])--[a-z][\w-]+", each)}
        assert flags - FLAGS - _UPSTREAM == set()


ROOTS = {"MODEL", "PRUNER", "SOLVER", "INPUT", "DATASETS", "DATALOADER", "TEST"}
FLAGS = {option for parser in parsers().values() for option in parser._option_string_actions}
FLAGS |= {"--version"}


@pytest.mark.parametrize(
    "command",
    [
        "blendprune prune --config-file C.yaml --max-flop",
        "blendprune pruen",
        "blendprune prune --config-file C.yaml MODEL.WEIGHTS",
        "blendprune run train_net.py MODEL.WEIGHTS",
        "make nothing",
        "pip install blendprune[nothing]",
        "python -m tests.nothing",
        "python nothing.py",
        "rm -rf /",
    ],
)
def test_a_command_that_cannot_be_typed_is_found(command):
    assert _fault(command.split(), ROOT)


def _unknown_keys(text, keys):
    """Keys of a YAML config that there are not."""
    return set(_leaves(yaml.safe_load(text))) - keys - {"_BASE_"}


def test_a_block_of_yaml_has_keys_that_there_are(keys):
    for block in blocks("yaml"):
        assert _unknown_keys(block.text, keys) == set(), block
    assert _unknown_keys("PRUNER:\n  MAX_FLOPS: 0.5\n  MAX_FLOP: 0.5\n", keys) == {
        "PRUNER.MAX_FLOP"
    }


def test_blocks_are_of_languages_that_are_checked():
    """Blocks without a language hold what a program prints."""
    assert {block.language for block in blocks()} <= {"sh", "bash", "python", "yaml", ""}
    assert len(blocks("sh")) > 30
