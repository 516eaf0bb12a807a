"""YAML read as plain data: no code runs, and no short text becomes a large value.

detectron2 reads a config with ``yaml.unsafe_load`` where ``yaml.safe_load`` refuses it, and that
runs whatever the tags of the file name. Here a file holds values, or it is refused.
"""

import yaml

from ..errors import ConfigError

_EVAL = "tag:yaml.org,2002:python/object/apply:eval"
#: Expressions in the configs that detectron2 and AdelaiDet ship, and their values.
_UPSTREAM = {
    "[[x, x * 2**(1.0/3), x * 2**(2.0/3) ] for x in [32, 64, 128, 256, 512 ]]": [
        [x, x * 2 ** (1.0 / 3), x * 2 ** (2.0 / 3)] for x in (32, 64, 128, 256, 512)
    ],
    "[int(x * 0.1 * 640) for x in range(5, 16)]": [int(x * 0.1 * 640) for x in range(5, 16)],
}
# A config with all keys of both packages has 15 thousand characters and 700 values.
MAX_CHARACTERS, _MAX_VALUES = 300_000, 30_000
# Anchors are made of every pair of two lists.
_MAX_ITEMS = 1_000


def read_plain_yaml(text):
    """Parse YAML; nothing that it names is imported, called or opened.

    Args:
        text (str): one document.

    Returns:
        object: dicts, lists, str, numbers, None.

    Raises:
        ConfigError: it is too long, nested too deep, or much larger than its text says.
        yaml.YAMLError: it is no YAML, or has a tag that names code.
    """
    if len(text) > MAX_CHARACTERS:
        raise ConfigError(f"it has more than {MAX_CHARACTERS} characters: name a config file")
    loader = _Loader(text)
    try:
        node = loader.get_single_node()
        if node is None:
            return None
        _count(node, {})
        return loader.construct_document(node)
    except RecursionError:
        raise ConfigError("its values are nested too deep: name a config file") from None
    finally:
        loader.dispose()


class _Loader(yaml.SafeLoader):
    """Knows, of all Python's tags, what upstream's own configs use."""

    def construct_expression(self, node):
        [text] = self.construct_sequence(node) or [None]
        if not isinstance(text, str) or text not in _UPSTREAM:
            return self.construct_undefined(node)
        return _UPSTREAM[text]


_Loader.add_constructor(_EVAL, _Loader.construct_expression)


def _count(node, known):
    """Values in a node, with those of each alias; ``known`` has the nodes that were counted."""
    if id(node) not in known:
        known[id(node)] = None  # until it is done: a node inside itself has no size
        parts = node.value if isinstance(node.value, list) else ()
        if isinstance(node, yaml.SequenceNode) and len(parts) > _MAX_ITEMS:
            raise ConfigError(f"a list in it has more than {_MAX_ITEMS} items: shorten it")
        if isinstance(node, yaml.MappingNode):
            parts = [each for pair in parts for each in pair]
        known[id(node)] = 1 + sum(_count(each, known) for each in parts)
    if known[id(node)] is None or known[id(node)] > _MAX_VALUES:
        raise ConfigError(f"its aliases stand for more than {_MAX_VALUES} values: write them out")
    return known[id(node)]
