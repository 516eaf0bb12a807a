"""Reading a pickled file without running anything of it.

torch's ``weights_only=True`` refuses a whole file for one object of an unknown class: a number of
numpy, an ``argparse.Namespace``, a config. Here every class but those that tensors need is replaced
by an empty one, :class:`Inert`, which only keeps what the file says of the object. So the weights
can be read, and so can most of the rest.
"""

import codecs
import collections
import pickle
import re
import tarfile
import types
import zipfile

import numpy as np
import torch

# Functions that rebuild tensors from storages; the same that weights_only=True allows.
_TENSORS = (
    "_rebuild_tensor",
    "_rebuild_tensor_v2",
    "_rebuild_tensor_v3",
    "_rebuild_parameter",
    "_rebuild_parameter_with_state",
)
_NUMBERS = re.compile(r"[<>|=]?([biufc]\d{1,2}|\?|[SU]\d+)")
# Classes whose attributes are all there is to them.
_NAMESPACES = ("argparse.Namespace", "types.SimpleNamespace")


class Inert:
    """An object of a class that was not used: what the file says of it.

    Attributes:
        path (str): the class's name, with its module.
        arguments (tuple): of the call that makes it.
        state (object): what the object would restore itself from; None if nothing.
        items (dict), elements (list): contents, of a subclass of dict, list or set.
    """

    path = ""

    def __new__(cls, *arguments, **keywords):
        found = super().__new__(cls)
        found.arguments, found.state, found.items, found.elements = arguments, None, {}, []
        return found

    def __init__(self, *arguments, **keywords):
        pass

    def __call__(self, *arguments, **keywords):
        return Inert(*arguments)

    def __setstate__(self, state):
        self.state = state

    def __setitem__(self, key, value):
        self.items[key] = value

    def append(self, value):
        self.elements.append(value)

    def add(self, value):
        self.elements.append(value)

    def extend(self, values):
        self.elements.extend(values)


def read_inert(path):
    """Read a file of ``torch.save``; objects of unknown classes are :class:`Inert`.

    Args:
        path (str): a file of this machine.

    Returns:
        object: what was saved, tensors on the CPU.

    Raises:
        Exception: whatever torch, pickle and zip raise of a file that is broken or another kind.
    """
    refuse_archive(path)
    module = types.SimpleNamespace(
        Unpickler=_Unpickler, load=lambda file, **how: _Unpickler(file, **how).load(), __name__=""
    )
    # weights_only=True takes no pickle_module; ours is stricter.
    found = torch.load(path, map_location="cpu", weights_only=False, pickle_module=module)
    without_attributes(found)
    return found


def refuse_archive(path):
    """Refuse archives that torch would unpack, or run, before it comes to a pickled file.

    Args:
        path (str): a file of this machine.

    Raises:
        Exception: it is a TorchScript program, a tar archive, or has compressed parts; or whatever
            zip and torch raise of one that is broken.
    """
    with open(path, "rb") as file:
        is_zip = file.read(4) == b"PK\x03\x04"  # as torch tells them apart
    if not is_zip:
        # torch unpacks tar archives, links included, into a folder.
        if tarfile.is_tarfile(path):
            raise pickle.UnpicklingError("the file is a tar archive")
        return
    if "constants.pkl" in torch._C.PyTorchFileReader(path).get_all_records():
        raise pickle.UnpicklingError("the file is a TorchScript archive")
    with zipfile.ZipFile(path) as file:
        # torch stores everything as it is. What is compressed may be a thousand times larger.
        if any(entry.compress_type != zipfile.ZIP_STORED for entry in file.infolist()):
            raise pickle.UnpicklingError("parts of the file are compressed")


def without_attributes(value):
    """Take away what a file has set on tensors and dicts in place of their own methods.

    ``weights_only=True`` lets a file set any attribute of a parameter or an OrderedDict, for
    example ``items`` or ``numel``, to plain data.

    Args:
        value (object): what was read; changed in place.

    Raises:
        pickle.UnpicklingError: it has a nested tensor, which has no shape.
    """
    todo, seen = [value], set()
    while todo:
        part = todo.pop()
        if id(part) in seen:
            continue
        seen.add(id(part))
        if isinstance(part, torch.Tensor):
            vars(part).clear()
            part._backward_hooks = None
            if part.is_nested:
                raise pickle.UnpicklingError("the file has a nested tensor")
        elif isinstance(part, dict):
            if isinstance(part, collections.OrderedDict):
                _keep_versions(part)
            todo += [*dict.keys(part), *dict.values(part)]
        elif isinstance(part, (list, tuple, set)):
            todo += part


def _keep_versions(state):
    """Leave of the attributes of a state dict only the versions of its modules."""
    versions = vars(state).get("_metadata")
    vars(state).clear()
    if isinstance(versions, dict) and all(isinstance(x, dict) for x in dict.values(versions)):
        state._metadata = versions


def plain(value):
    """The plain data in a value, for example in what :func:`read_inert` gives.

    Numbers of numpy become Python's, its arrays tensors; subclasses of dict, list and set, and
    namespaces, become dict and list. Other objects are left out.

    Args:
        value (object): with objects as they are, or inert.

    Returns:
        tuple[object, list[str]]: the data, and the classes of what was left out. An object that is
        left out itself is None.
    """
    gone = {}
    found = _plain(value, gone, {})
    return None if found is _GONE else found, list(gone)


def is_module(value):
    """Whether a value is a module, as it is or inert."""
    if isinstance(value, Inert):
        return isinstance(value.state, dict) and "_modules" in value.state
    return isinstance(value, torch.nn.Module)


class _Unpickler(pickle._Unpickler):
    """In Python: the one in C allocates as much as a file's number of an object asks for."""

    dispatch = dict(pickle._Unpickler.dispatch)

    def load_build(self):
        # Not on functions and classes: they would keep what the file sets.
        if not isinstance(self.stack[-2], (Inert, torch.Tensor, collections.OrderedDict)):
            raise pickle.UnpicklingError("the file sets the state of what is no object of its own")
        super().load_build()

    def load_bytearray8(self):
        # Of protocol 5; it makes room before it reads. torch writes protocol 2.
        raise pickle.UnpicklingError("the file has a bytearray")

    dispatch[pickle.BUILD[0]] = load_build
    dispatch[pickle.BYTEARRAY8[0]] = load_bytearray8

    def find_class(self, module, name):
        path = f"{module}.{name}"
        if module == "torch._utils" and name in _TENSORS:
            return getattr(torch._utils, name)
        if module == "torch" and isinstance(getattr(torch, name, None), torch.dtype):
            return getattr(torch, name)
        return _CLASSES.get(path) or type(name.rpartition(".")[2], (Inert,), {"path": path})


def _bytes(text, *_):
    return codecs.encode(text, "latin1")


_CLASSES = {
    "collections.OrderedDict": collections.OrderedDict,
    "torch.Size": torch.Size,
    "torch.device": torch.device,
    "torch.nn.parameter.Parameter": torch.nn.Parameter,
    # Bytes in the pickle protocol that torch uses.
    "_codecs.encode": _bytes,
    # By its names in the protocols of Python 2 and 3.
    "__builtin__.set": set,
    "builtins.set": set,
}
_GONE = object()
_LEAVES = (int, float, complex, str, bytes, type(None), torch.Tensor, torch.Size)
_LEAVES += (torch.dtype, torch.device)


def _plain(value, gone, known):
    """Plain data in a value; ``known`` has what was found of each object, by its id."""
    if id(value) not in known:
        known[id(value)] = _plain_once(value, gone, known)
    return known[id(value)]


def _plain_once(value, gone, known):
    found = _GONE
    if isinstance(value, Inert):
        found = _plain_inert(value, gone, known)
    elif isinstance(value, (np.generic, np.ndarray)):
        found = _plain_numpy(value)
    elif isinstance(value, dict):
        found = _plain_dict(value, gone, known)
    elif isinstance(value, _LEAVES):
        found = value
    elif isinstance(value, (list, tuple, set)):
        kind = next(kind for kind in (list, tuple, set) if isinstance(value, kind))
        found = kind(y for x in value if (y := _plain(x, gone, known)) is not _GONE)
    elif _path(value) in _NAMESPACES:
        found = _plain_dict(vars(value), gone, known)
    if found is _GONE:
        gone[_path(value)] = True
    return found


def _path(value):
    if isinstance(value, Inert):
        return value.path
    return f"{type(value).__module__}.{type(value).__qualname__}"


def _plain_dict(value, gone, known):
    found = {k: y for k, x in value.items() if (y := _plain(x, gone, known)) is not _GONE}
    same = len(found) == len(value) and all(found[key] is x for key, x in value.items())
    # A state dict is more than its items: it has versions.
    return value if same and type(value) in (dict, collections.OrderedDict) else found


def _plain_numpy(value):
    if value.dtype.kind not in "biufcSU":
        return _GONE
    if isinstance(value, np.generic):
        return value.item()
    return torch.from_numpy(value.copy()) if value.dtype.kind in "biufc" else value.tolist()


def _plain_inert(value, gone, known):
    if value.path.endswith("multiarray.scalar"):
        return _scalar(*value.arguments)
    if value.path.endswith("multiarray._reconstruct"):
        return _array(value.state)
    if value.path in _NAMESPACES:
        return _plain_dict(value.state, gone, known) if isinstance(value.state, dict) else {}
    if value.items:
        return _plain_dict(value.items, gone, known)
    return _plain(value.elements, gone, known) if value.elements else _GONE


def _scalar(kind=None, data=b"", *_):
    dtype = _dtype(kind)
    if dtype is None or not isinstance(data, bytes) or len(data) != dtype.itemsize:
        return _GONE
    return np.frombuffer(data, dtype)[0].item()


def _array(state):
    try:
        _, shape, kind, fortran, data = state
        dtype = _dtype(kind)
        if dtype is None:
            return _GONE
        found = np.frombuffer(data, dtype).reshape(shape, order="F" if fortran else "C")
        return _plain_numpy(found.astype(dtype.newbyteorder("=")))
    except (TypeError, ValueError):
        return _GONE


def _dtype(kind):
    """The numpy type of a pickled one, if its values are numbers or text."""
    code = kind.arguments[0] if isinstance(kind, Inert) and kind.arguments else None
    if not isinstance(code, str) or not _NUMBERS.fullmatch(code):
        return None
    order = kind.state[1] if isinstance(kind.state, tuple) and len(kind.state) > 1 else "="
    return np.dtype(code).newbyteorder(order if order in ("<", ">") else "=")
