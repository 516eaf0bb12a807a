"""Every sentence of an error that the package raises, read from its source.

``docs/troubleshooting.md`` explains each; ``…`` stands for what a call fills in.
"""

import ast
import inspect
import re
from pathlib import Path

from blendprune import errors

_PACKAGE = Path(errors.__file__).parent
_ERRORS = {name for name, _ in inspect.getmembers(errors, inspect.isclass)}
_FILLED_IN = "…"


def sentences():
    """The sentences of all errors.

    Returns:
        dict[str, set[str]]: sentence → the rooms of the package that raise it.
    """
    found = {}
    for path in sorted(_PACKAGE.rglob("*.py")):
        room = path.relative_to(_PACKAGE).parts[0].removesuffix(".py")
        for sentence in sentences_of(path.read_text()):
            found.setdefault(sentence, set()).add(room)
    return found


def sentences_of(source):
    """The sentences of the errors that one module makes.

    Args:
        source (str): of the module.

    Returns:
        list[str]: without those that other modules hold in a constant.
    """
    return _Module(ast.parse(source)).sentences()


class _Module:
    """Follows the argument of an error to the text that it stands for."""

    def __init__(self, tree):
        self._scopes = [n for n in ast.walk(tree) if isinstance(n, ast.FunctionDef)]
        self._functions = {scope.name: scope for scope in self._scopes}
        self._scopes.append(tree)
        self._constants = {name: value for name, value in _assigned(tree)}
        self._imported = {
            alias.asname or alias.name
            for node in ast.walk(tree)
            if isinstance(node, ast.ImportFrom)
            for alias in node.names
        }

    def sentences(self):
        return [
            re.sub(f"{_FILLED_IN}+", _FILLED_IN, text)
            for scope in self._scopes
            for node in _own_nodes(scope)
            if _is_error(node, scope) and node.args
            for text in self._texts(node.args[0], scope)
        ]

    def _texts(self, node, scope):
        """All texts that an expression may have."""
        if isinstance(node, ast.BoolOp):
            return [text for value in node.values for text in self._texts(value, scope)]
        if isinstance(node, ast.Name):
            if node.id in self._imported:
                return []
            values = [value for name, value in _assigned(scope) if name == node.id]
            if values:
                return [text for value in values for text in self._texts(value, scope)]
        called = node.func if isinstance(node, ast.Call) else None
        maker = self._functions.get(getattr(called, "id", getattr(called, "attr", None)))
        if maker is not None:
            returned = [n.value for n in _own_nodes(maker) if isinstance(n, ast.Return)]
            return [text for value in returned for text in self._texts(value, maker)]
        return list(filter(None, [self._text(node)]))

    def _text(self, node):
        if isinstance(node, ast.Constant):
            return str(node.value)
        if isinstance(node, ast.JoinedStr):
            return "".join(map(self._text, node.values))
        if isinstance(node, ast.FormattedValue):
            return self._text(node.value)
        if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
            return self._text(node.left) + self._text(node.right)
        if isinstance(node, ast.Name) and node.id in self._constants:
            return self._text(self._constants[node.id])
        return _FILLED_IN


def _own_nodes(scope):
    """The nodes of a function or module, without those of the functions inside."""
    waiting = list(ast.iter_child_nodes(scope))
    while waiting:
        node = waiting.pop()
        yield node
        if not isinstance(node, ast.FunctionDef):
            waiting += ast.iter_child_nodes(node)


def _assigned(scope):
    """Names of a function or module and the expressions that they get."""
    for node in _own_nodes(scope):
        if isinstance(node, ast.Assign):
            yield from ((t.id, node.value) for t in node.targets if isinstance(t, ast.Name))


def _is_error(node, scope):
    """Whether a node makes one of our errors, by its class or by one passed as ``kind``."""
    if not isinstance(node, ast.Call):
        return False
    name = getattr(node.func, "id", getattr(node.func, "attr", None))
    parameters = {a.arg for a in ast.walk(scope) if isinstance(a, ast.arg)}
    return name in _ERRORS or (name == "kind" and name in parameters)
