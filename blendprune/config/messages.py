"""Sentences for what cannot be merged into a config."""

import contextlib
import re

import yaml

from ..checks import similar
from ..errors import ConfigError

_UNKNOWN = re.compile(r"Non-existent (?:config )?key: ([\w.]+)")
_TYPE = re.compile(
    r"Type mismatch \(<class '([\w.]+)'> vs\. <class '([\w.]+)'>\) with values \((.*) vs\. (.*)\) "
    r"for config key: ([\w.]+)",
    re.DOTALL,
)
_TAG = re.compile(r"constructor for the tag '(?:tag:yaml\.org,2002:)?(.*)'")
_ODD = re.compile(r"Override list has odd length: (.*); it must be")


@contextlib.contextmanager
def explained(source, cfg):
    """Turn every error of a block that merges something into a config into one sentence.

    Args:
        source (str): what is merged, for example ``"the config file 'C.yaml'"``.
        cfg (CfgNode): that it is merged into.

    Raises:
        ConfigError: the block has failed.
    """
    try:
        yield
    except ConfigError as error:
        raise ConfigError(f"cannot use {source}: {error}") from None
    except Exception as error:  # yaml, yacs and PathManager have many
        raise ConfigError(f"cannot use {source}: {_problem(error, cfg)}") from None


def unknown_key(error, cfg):
    """What is wrong with a key that yacs does not know.

    Args:
        error (Exception): of a merge into a config.
        cfg (CfgNode): with the keys that are known.

    Returns:
        str: empty if that is not the error.
    """
    unknown = _UNKNOWN.search(str(error))
    if not unknown:
        return ""
    return f"{unknown[1]} is no key of this config{similar(unknown[1], _keys(cfg))}"


def _problem(error, cfg):
    text = str(error.args[0]) if isinstance(error, KeyError) and error.args else str(error)
    text = text.strip() or type(error).__name__
    if words := unknown_key(error, cfg):
        return f"{words}: correct it, or add it with --import MODULE:FUNCTION"
    if mismatch := _TYPE.search(text):
        return _mismatch(*mismatch.groups(), cfg)
    if odd := _ODD.search(text):
        return f"the overrides {odd[1]} are no pairs (odd length): write a value behind each key"
    if "does not exist!" in text:
        return "there is no such file: check the path"
    if isinstance(error, yaml.constructor.ConstructorError) and (tag := _TAG.search(str(error))):
        return (
            f"line {error.problem_mark.line + 1} has the tag !!{tag[1]}, which names code, and "
            "commands run no code of a config: write the value itself there"
        )
    if mark := getattr(error, "problem_mark", None):
        return f"it is not valid YAML (line {mark.line + 1}: {error.problem}): correct that line"
    if isinstance(error, UnicodeDecodeError):
        return "it is no text: name a YAML file"
    # yacs on a file that holds nothing, a list or a word.
    if isinstance(error, (TypeError, AttributeError)):
        return "it holds no keys: name a YAML file with KEY: VALUE lines"
    return f"{text.splitlines()[0]}: check the path and the keys"


def _mismatch(wanted, found, old, new, key, cfg):
    wanted, found = wanted.rpartition(".")[2], found.rpartition(".")[2]
    if wanted == "CfgNode":
        node = cfg
        for part in key.split("."):
            node = node.get(part, {})
        return f"{key} is a group of keys, got {new}: set one of them, such as {key}.{min(node)}"
    if (wanted, found) == ("float", "int"):
        return f"{key} wants a float, got the int {new}: write {new}.0"
    if wanted in ("list", "tuple"):
        return f'{key} wants a {wanted}, got {new} ({found}): write "[{new}]", with the quotes'
    such = f" such as {old}" if old else ""
    wanted = "an int" if wanted == "int" else f"a {wanted}"
    return f"{key} wants {wanted}{such}, got {new} ({found}): write {wanted}"


def _keys(node, prefix=""):
    for key, value in node.items():
        yield prefix + key
        if isinstance(value, dict):
            yield from _keys(value, f"{prefix}{key}.")
