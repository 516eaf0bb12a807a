"""What users name on the command line: modules to import, functions and classes in them."""

import importlib
import os
import sys

from ..errors import BlendpruneError, ConfigError, error_line


def import_into(cfg, names):
    """Import modules, and call functions of theirs with a config.

    The working directory is importable, as with ``python -m``.

    Args:
        cfg (CfgNode): the functions add their keys to it.
        names (Iterable[str]): each ``"MODULE"`` or ``"MODULE:FUNCTION"``.

    Raises:
        ConfigError: a module cannot be imported, a name is not in it, or a function fails.
        BlendpruneError: what a function raised of these.
    """
    for name in names:
        if ":" not in name:
            _import(name, name)
            continue
        function = find(name)
        try:
            function(cfg)
        except BlendpruneError:  # says already what to do
            raise
        except Exception as error:  # whatever the user's function raises
            raise ConfigError(
                f"{name!r} failed when it was called with the config ({error_line(error)}): name a "
                "function of one argument, such as add_my_config(cfg)."
            ) from error


def find(name):
    """Import what ``"MODULE:NAME"`` names.

    Args:
        name (str): a dotted module, a colon, and a name in the module.

    Returns:
        Callable: a function or a class.

    Raises:
        ConfigError: the module cannot be imported, or has no such callable.
    """
    module, _, attribute = name.partition(":")
    found = _import(module, name)
    for part in attribute.split("."):
        found = getattr(found, part, None)
    if not callable(found):
        raise ConfigError(
            f"{name!r}: the module {module} has no function {attribute!r}: give it as "
            "MODULE:FUNCTION."
        )
    return found


def _import(module, name):
    if "" not in sys.path and os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())
    try:
        return importlib.import_module(module)
    except Exception as error:  # whatever the user's module raises
        raise ConfigError(
            f"cannot import {name!r} ({error_line(error)}): give a module of the working "
            "directory or of PYTHONPATH, as MODULE or MODULE:FUNCTION."
        ) from error
