"""Where a name of upstream comes from: upstream's source, this overlay, or somebody else.

A digest compares source. It cannot see a function that somebody put in place at run time.
"""

import ast
import contextlib
import functools
import hashlib
import inspect
import sys
import textwrap
import types

import wrapt

# Values that the overlay put in place, by id. They stay alive, so that no id is used twice.
_ours = {}
# What imports nothing of upstream: the standard library, what upstream stands on, and tools that
# a training or an export loads beside it. They hold nineteen twentieths of the names of a process.
_LIBRARIES = {"cuda", "cv2", "mpmath", "numpy", "sympy", "torch", "torchvision", "triton"}
_LIBRARIES |= {"PIL", "antlr4", "hydra", "matplotlib", "omegaconf", "pyparsing", "scipy", "yaml"}
_LIBRARIES |= {"google", "joblib", "narwhals", "onnx", "onnx_ir", "onnxruntime", "onnxscript"}
_LIBRARIES |= {"openvino", "pandas", "psutil", "rich", "sklearn", "tensorboard", "timm"}
_LIBRARIES |= {"_pytest", "packaging", "pkg_resources", "pluggy", "pygments", "setuptools"}
_BELOW = sys.stdlib_module_names | _LIBRARIES
_EMPTY = types.CellType()
_MAX_REFERENCES = 200
_READS = 3


class Wrapper(wrapt.FunctionWrapper):
    """A wrapper of the overlay; its class tells it from the wrappers of others."""


def mark_as_ours(value):
    """Remember a value that the overlay puts in place, and return it."""
    _ours[id(value)] = value
    return value


def is_ours(value):
    """Whether the overlay made a value; what somebody wrapped around it is not ours."""
    return id(value) in _ours


def digest(module, watches):
    """Digest the source of ``watches`` in ``module``, without comments, layout and docstrings.

    Args:
        module (module): an imported upstream module.
        watches (tuple[str]): dotted names in it.

    Returns:
        str: 16 hexadecimal digits, or ``"missing NAME"``.
    """
    sha = hashlib.sha256()
    for watch in watches:
        owner, name, target = _resolve(module, watch)
        source = None
        if isinstance(target, type):
            source = _parse(target)
        elif target is not None:
            source = _definition(owner, name)
        if source is None:
            return f"missing {watch}"
        sha.update(_text(source).encode())
    return sha.hexdigest()[:16]


def _text(source):
    """Code without docstrings, as Python 3.11 and later write it."""
    for node in ast.walk(source):
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)) and ast.get_docstring(node):
            node.body = node.body[1:] or [ast.Pass()]
        if isinstance(node, ast.Assign):
            node.targets = [_bare(target) for target in node.targets]
        elif isinstance(node, (ast.For, ast.AsyncFor, ast.comprehension)):
            node.target = _bare(node.target)
    return ast.unparse(source).replace("lambda :", "lambda:")


def _bare(target):
    """A target without the parentheses that Python 3.10 puts around a tuple."""
    if not isinstance(target, ast.Tuple):
        return target
    parts = [ast.unparse(part) for part in target.elts]
    return ast.Name(f"{parts[0]}," if len(parts) == 1 else ", ".join(parts), ast.Store())


def foreign_at(module, watch):
    """Describe who patched a function of upstream, other than the overlay.

    Args:
        module (module): an imported upstream module.
        watch (str): dotted name of a function in it.

    Returns:
        str: see :func:`foreign`.
    """
    owner, name, _ = _resolve(module, watch)
    return "" if owner is None else foreign(owner, name)


def foreign(owner, name, value=None):
    """Describe who replaced or wrapped a function of a class or module, other than the overlay.

    Args:
        owner (type or module): an upstream class or module.
        name (str): the function's name in it.
        value (object): what to describe. Defaults to what is there now.

    Returns:
        str: name, file and line of the outermost foreign function; ``""`` if there is none.
    """
    if value is None:
        value = inspect.getattr_static(owner, name, None)
    while is_ours(value) and hasattr(value, "__wrapped__"):
        value = value.__wrapped__
    if value is None or is_ours(value) or is_upstreams(owner, name, value):
        return ""
    return describe(value)


def is_upstreams(owner, name, value):
    """Whether a value is the function that upstream's source defines as ``owner.name``."""
    layers, function = _unwrap(value)
    if not any(_defines(home, name, function) for home in _homes(owner)):
        return False
    return not layers or layers <= len(_parse(function).decorator_list)


def describe(value):
    """Name a function by its module, name and line, even if it carries another function's name."""
    function = getattr(value, "_self_wrapper", value)
    function = getattr(function, "__func__", function)
    code = getattr(function, "__code__", None)
    if code is None:
        name = getattr(value, "__qualname__", None) or repr(value)
        return f"{getattr(value, '__module__', type(value).__module__)}.{name}"
    name = getattr(code, "co_qualname", code.co_name)
    module = function.__globals__.get("__name__", "?")
    return f"{module}.{name} ({code.co_filename}:{code.co_firstlineno})"


def calls(function, target):
    """Whether a function refers to another one, itself or through functions that it refers to.

    Args:
        function (Callable): a function, or a wrapper around one.
        target (Callable): what it may call.

    Returns:
        bool: as far as closures, defaults, globals and wrappers tell.
    """
    todo, seen = [function], {}
    while todo and len(seen) < _MAX_REFERENCES:
        value = todo.pop(0)
        if value is target:
            return True
        if id(value) not in seen:
            seen[id(value)] = value
            todo += _references(value)
    return False


def _references(value):
    for name in ("__wrapped__", "__func__", "_self_wrapper", "func"):
        if (inner := getattr(value, name, None)) is not None:
            yield inner
    if isinstance(value, types.FunctionType):
        cells = [cell.cell_contents for cell in value.__closure__ or () if cell != _EMPTY]
        names = [value.__globals__.get(name) for name in value.__code__.co_names]
        yield from filter(callable, (*cells, *(value.__defaults__ or ()), *names))


def versions(module, name, everywhere):
    """List upstream's function and the functions that others put around or in place of it.

    Args:
        module (module): the upstream module that defines the function.
        name (str): its name.
        everywhere (list[tuple[module, dict]]): where to look; see :func:`globals_above`.

    Returns:
        list: distinct values, found in this module and in the globals of the others.
    """
    found = [getattr(module, name)]
    namesakes = []
    for key, value in _functions(everywhere, name):
        if value.__name__ == name and _defines(module, name, _unwrap(value)[1]):
            found.append(value)
        elif key == name:
            namesakes.append(value)
    found += [value for value in namesakes if any(calls(value, each) for each in found)]
    return list({id(value): value for value in found}.values())


def globals_above(module):
    """List the globals of all loaded modules that may import a name from a module.

    Args:
        module (module): of upstream.

    Returns:
        list[tuple[module, dict]]: all but those of the standard library and of libraries that
        import nothing of upstream.

    Another thread may import meanwhile. Only a dict's ``copy()`` is safe then: ``list(….items())``
    makes tuples, so a collection of garbage may start in its middle, and other threads run.
    """
    package = _package(module.__name__)
    below, seen = _BELOW - {package}, _below(package)
    modules, found = sys.modules.copy(), []
    for name in [name for name in modules if name not in seen]:
        if _package(name) in below:
            seen.add(name)
        elif isinstance(names := getattr(modules[name], "__dict__", None), dict):
            found.append((modules[name], names))
    return found


@functools.cache
def _below(package):
    """Names of modules that were seen to be of libraries that import nothing of a package."""
    return set()


def _package(name):
    return name.partition(".")[0]


def _functions(everywhere, name):
    """Yield key and value of every function of a name among the modules' globals, except ours."""
    functions = types.FunctionType, wrapt.FunctionWrapper
    for _, names in everywhere:
        for key, value in names.copy().items():
            kind = type(value)  # isinstance would make lazy objects import what they stand for
            if kind is types.FunctionType or issubclass(kind, functions):
                if (key == name or value.__name__ == name) and not is_ours(value):
                    yield key, value


def _resolve(module, watch):
    owner, target = None, module
    for part in watch.split("."):
        owner, target = target, inspect.getattr_static(target, part, None)
        if target is None:
            break
    return owner, watch.rpartition(".")[2], target


def _definition(owner, name):
    """The syntax tree of ``owner.name`` in upstream's source, whatever is in its place now."""
    value = inspect.getattr_static(owner, name)
    if is_upstreams(owner, name, value):
        return _parse(_unwrap(value)[1])
    for home in _homes(owner):
        for node in _parse(home).body:
            if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)) and node.name == name:
                return node
    return None


def _homes(owner):
    """Where a name of a class or module may be defined."""
    return (owner,) if isinstance(owner, types.ModuleType) else owner.__mro__[:-1]


def _defines(home, name, function):
    code = getattr(function, "__code__", None)
    module = home if isinstance(home, types.ModuleType) else sys.modules.get(home.__module__)
    if code is None or code.co_name != name:
        return False
    return code.co_filename == getattr(module, "__file__", None)


def _unwrap(value):
    layers = 0
    while (inner := getattr(value, "__wrapped__", None)) is not None:
        value, layers = inner, layers + 1
    return layers, getattr(value, "__func__", value)


def _parse(target):
    tree = ast.parse(textwrap.dedent(_source(target)))
    return tree if isinstance(target, types.ModuleType) else tree.body[0]


def _source(target):
    for _ in range(_READS):
        # A thread that prints a traceback empties the cache of lines that this reads from.
        with contextlib.suppress(OSError):
            return inspect.getsource(target)
    return inspect.getsource(target)
