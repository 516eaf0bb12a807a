"""Pickles that would call, import, shadow, nest, or ask for memory."""

import io
import itertools
import pickle
import struct
import zipfile

import torch

#: Function and arguments: what a hostile file calls.
CALLS = (
    ("os", "system", ("touch {folder}/ran",)),
    ("posix", "system", ("touch {folder}/ran",)),
    ("subprocess", "Popen", (["touch", "{folder}/ran"],)),
    ("subprocess", "check_output", (["touch", "{folder}/ran"],)),
    ("builtins", "exec", ("open('{folder}/ran', 'w')",)),
    ("builtins", "eval", ("open('{folder}/ran', 'w')",)),
    ("__builtin__", "eval", ("open('{folder}/ran', 'w')",)),
    ("builtins", "open", ("{folder}/ran", "w")),
    ("builtins", "open", ("/etc/passwd",)),
    ("builtins", "__import__", ("this",)),
    ("builtins", "getattr", (1, "real")),
    ("builtins", "print", ("hello",)),
    ("builtins", "bytearray", (1 << 40,)),
    ("builtins", "range", (1 << 40,)),
    ("io", "open", ("{folder}/ran", "w")),
    ("pathlib", "Path.touch", ("{folder}/ran",)),
    ("os", "remove", ("{folder}/file.pth",)),
    ("shutil", "rmtree", ("{folder}",)),
    ("socket", "create_connection", (("127.0.0.1", 9), 0.1)),
    ("urllib.request", "urlopen", ("http://127.0.0.1:9/",)),
    ("importlib", "import_module", ("antigravity",)),
    ("runpy", "run_path", ("{folder}/ran.py",)),
    ("ctypes", "CDLL", ("libc.so.6",)),
    ("numpy", "load", ("/etc/passwd",)),
    ("torch", "load", ("/etc/passwd",)),
    ("torch.jit", "load", ("{folder}/file.pth",)),
    ("torch.hub", "load", ("a/b", "c")),
    ("torch.hub", "load_state_dict_from_url", ("http://127.0.0.1:9/x.pth",)),
    ("torch.storage", "_load_from_bytes", (b"\x80\x02cos\nsystem\nU\x04truetR.",)),
    ("torch", "zeros", ((1 << 20, 1 << 20),)),
    ("torch._utils", "_import_dotted_name", ("antigravity.fly",)),
    ("pickle", "loads", (b"cos\nsystem\n(S'true'\ntR.",)),
    ("functools", "partial", (print, "hello")),
    ("operator", "methodcaller", ("system", "true")),
    ("yaml", "unsafe_load", ("!!python/object/apply:os.system [true]",)),
    ("detectron2.utils.file_io", "PathManager.open", ("/etc/passwd",)),
    ("blendprune.checkpoint.conversion", "convert", ("a", "b")),
    ("antigravity", "fly", ()),
)


class _Raw:
    """Opcodes, written as they are."""

    def __init__(self, code):
        self.code = code


def _code(value):
    """Opcodes that make a value: pickle's own, or those of :class:`_Raw`."""
    if isinstance(value, _Raw):
        return value.code
    if isinstance(value, tuple):
        return b"(" + b"".join(map(_code, value)) + b"t"
    if isinstance(value, list):
        return b"(" + b"".join(map(_code, value)) + b"l"
    if isinstance(value, dict):
        return b"(" + b"".join(_code(k) + _code(v) for k, v in value.items()) + b"d"
    if callable(value):
        return _name(value.__module__, value.__qualname__)
    return pickle.dumps(value, 2)[2:-1]


def _name(module, name):
    return b"c" + module.encode() + b"\n" + name.encode() + b"\n"


def calls(folder):
    """Raw opcodes that call each of :data:`CALLS`, in several ways."""
    for module, name, args in CALLS:
        args = _filled(args, folder)
        yield _Raw(_name(module, name) + _code(args) + b"R")
        yield _Raw(b"(" + b"".join(map(_code, args)) + f"i{module}\n{name}\n".encode())
        yield _Raw(_code(module) + _code(name) + b"\x93" + _code(args) + b"R")  # STACK_GLOBAL
        yield _Raw(_name(module, name) + _code(args) + b"\x81")  # NEWOBJ
        yield _Raw(_name(module, name) + _code({"a": args}) + b"b")  # BUILD
        # The result of one call is the function of the next.
        inner = _name("builtins", "getattr") + _code((_Raw(_name(module, name)), "__call__")) + b"R"
        yield _Raw(inner + _code(args) + b"R")


def _filled(value, folder):
    if isinstance(value, str):
        return value.replace("{folder}", folder)
    if isinstance(value, (list, tuple)):
        return type(value)(_filled(each, folder) for each in value)
    return value


_ORDERED = _name("collections", "OrderedDict") + b")R"
_SHADOWS = ("items", "get", "keys", "values", "_metadata", "copy", "__class__", "__iter__", "pop")


def shadows():
    """Objects whose attributes a file sets, in place of methods."""
    for name in _SHADOWS:
        for value in (5, None, "x", {"": 5}, [1]):
            yield _Raw(_ORDERED + _code({name: value}) + b"b")
            state = _Raw(b"(N" + _code({name: value}) + b"t")
            yield _Raw(_ORDERED + state.code + b"b")
    for module, name in (
        ("torch._utils", "_rebuild_tensor_v2"),
        ("_codecs", "encode"),
        ("collections", "OrderedDict"),
        ("torch.nn.parameter", "Parameter"),
        ("torch", "float32"),
        ("torch", "Size"),
        ("builtins", "set"),
        ("a", "Class"),
    ):
        for attribute in ("__defaults__", "__kwdefaults__", "__doc__", "__code__", "size"):
            state = b"(N" + _code({attribute: (1,)}) + b"t"
            yield _Raw(_name(module, name) + state + b"b")
            yield _Raw(_name(module, name) + _code({attribute: (1,)}) + b"b")


def greedy():
    """Few opcodes that ask for much memory, much time, or a deep stack."""
    yield _Raw(b"Nr\xff\xff\xff\x7f")  # object number 2^31 of the memo
    yield _Raw(b"Np2000000000\n")
    for size in (1 << 31, 1 << 40, (1 << 63) - 1, (1 << 64) - 1):
        long = struct.pack("<Q", size)
        yield _Raw(b"\x8e" + long)  # BINBYTES8
        yield _Raw(b"\x8d" + long)  # BINUNICODE8
        yield _Raw(b"\x96" + long)  # BYTEARRAY8
        yield _Raw(b"\x95" + long)  # FRAME
    yield _Raw(b"T\xff\xff\xff\x7f")
    yield _Raw(b"X\xff\xff\xff\xff")
    yield _Raw(b"\x8b\xff\xff\xff\x7f")  # LONG4
    for depth in (100, 1000, 5000):
        yield _Raw(b"]" * depth + b"a" * (depth - 1))
        yield _Raw(b"(" * depth)
        yield _Raw(b")" + b"\x85" * depth)  # tuples of tuples
    # Lists of ten times the list before: 10^40 leaves, in 400 bytes.
    laughs = b"]q\x00" + b"".join(
        b"](" + b"h" + bytes([n]) + (b"h" + bytes([n])) * 9 + b"eq" + bytes([n + 1])
        for n in range(40)
    )
    yield _Raw(laughs)
    # A list, and a dict, inside itself.
    yield _Raw(b"]q\x00h\x00a")
    yield _Raw(b"}q\x00(U\x05modelh\x00u")
    yield _Raw(_code(10**5000))
    yield _Raw(b"I" + b"9" * 100_000 + b"\n")
    yield _Raw(b"F" + b"9" * 100_000 + b"\n")


def placed(value):
    """Checkpoints (opcodes) that have a value in each place that is read."""
    good = {"model": {}}
    yield _code(value)
    yield _code({"model": value})
    yield _code({**good, "struct": value})
    yield _code({**good, "iteration": value})
    yield _code({"model": {"conv.weight": value}})
    struct_ = {"format": "blendprune.struct", "version": 1, "config": "", "size": 1}
    struct_ |= {"dense_size": 1, "meta_architecture": "Net"}
    yield _code({**good, "struct": {**struct_, "modules": value}})
    yield _code({**good, "struct": {**struct_, "modules": {"conv": value}}})
    yield _code({**good, "struct": {**struct_, "modules": {"conv": {"weight": value}}}})
    yield _code({**good, "struct": {**struct_, "version": value, "modules": {}}})
    yield _code({**good, "struct": {**struct_, "format": value, "modules": {}}})


def packed(code):
    """Bytes of a file with these opcodes, in each form that torch reads."""
    body = b"\x80\x02" + code + b"."
    yield archive(
        {"archive/data.pkl": body, "archive/version": b"3", "archive/byteorder": b"little"}
    )
    legacy = [
        pickle.dumps(value, 2)
        for value in (
            0x1950A86A20F9469CFC6C,
            1001,
            {"little_endian": True, "protocol_version": 1001},
        )
    ]
    yield b"".join(legacy) + body + pickle.dumps([], 2)
    yield body


def archive(parts, compression=zipfile.ZIP_STORED):
    """Bytes of a zip archive.

    Args:
        parts (dict[str, bytes]): by name.
        compression (int): of zipfile.
    """
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", compression) as zipped:
        for name, content in parts.items():
            zipped.writestr(name, content)
    return file.getvalue()


def pickles(folder):
    """Bytes of every hostile file of this module.

    Args:
        folder (str): where what runs would leave a file.
    """
    for value in itertools.chain(calls(folder), shadows(), greedy()):
        for code in placed(value):
            yield from packed(code)
    for name in (
        *_SHADOWS,
        "numel",
        "shape",
        "is_nested",
        "dtype",
        "element_size",
        "untyped_storage",
    ):
        yield parameter_with(name)


class _WithState:
    def __init__(self, name):
        self.name = name

    def __reduce__(self):
        from torch._utils import _rebuild_parameter_with_state

        return _rebuild_parameter_with_state, (torch.ones(4, 3, 3, 3), True, {}, {self.name: 5})


def parameter_with(name):
    """Bytes of a file whose only weight has an attribute of that name."""
    file = io.BytesIO()
    torch.save({"model": {"conv.weight": _WithState(name)}}, file)
    return file.getvalue()
