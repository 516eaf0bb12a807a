"""Files that are cut off, flipped, packed in other ways, or of another kind."""

import io
import pickle
import random
import tarfile
import zipfile

import torch

import blendprune
from tests.fuzz.pickles import archive
from tests.helpers.net import Net


def small_file(legacy=False):
    """Bytes of a small good checkpoint, in torch's present format or that of 2020.

    Args:
        legacy (bool): the older one, which is no zip archive.
    """
    return _saved(Net(4), legacy)


def _saved(net, legacy):
    file = io.BytesIO()
    content = {"model": net.state_dict(), "struct": blendprune.structure_of(net)}
    torch.save(content, file, _use_new_zipfile_serialization=not legacy)
    return file.getvalue()


def smallest_file(legacy=False):
    """Bytes of a good checkpoint of one weight, as of :func:`small_file`: 2 kB, or 1 kB."""
    return _saved(torch.nn.Linear(1, 1, bias=False), legacy)


def truncated(count):
    """Two files cut off at every offset; at even distances if ``count`` is smaller than both."""
    files = [smallest_file(), smallest_file(legacy=True)]
    step = -(-sum(map(len, files)) // count)
    for good in files:
        for offset in range(0, len(good), step):
            yield good[:offset]


def flipped(count, seed=0):
    """Files with one to eight bits flipped, or a few bytes replaced, moved or doubled."""
    choose, files = random.Random(seed), [small_file(), small_file(legacy=True)]
    for number in range(count):
        found = bytearray(files[number % 2])
        kind = choose.randrange(4)
        at = choose.randrange(len(found))
        if kind < 2:
            for _ in range(choose.randint(1, 8)):
                found[choose.randrange(len(found))] ^= 1 << choose.randrange(8)
        elif kind == 2:
            found[at : at + 8] = choose.randbytes(choose.randint(0, 16))
        else:
            found[at:at] = found[choose.randrange(len(found)) :][:100]
        yield bytes(found)


def repacked(folder):
    """Archives of other kinds, and with other parts, than torch writes.

    Args:
        folder (str): where a file would land that an archive unpacks.
    """
    with zipfile.ZipFile(io.BytesIO(small_file())) as file:
        parts = {name: file.read(name) for name in file.namelist()}
    root = next(iter(parts)).partition("/")[0]
    zeros = {**parts, f"{root}/data/0": bytes(300 << 20)}
    for content in (parts, zeros):
        yield archive(content, zipfile.ZIP_DEFLATED)
    yield archive({**parts, f"{root}/constants.pkl": parts[f"{root}/data.pkl"]})
    yield archive({**parts, f"{root}/code/__torch__.py": b"import os"})
    yield archive({**parts, "../ran": b"", f"{folder}/ran": b""})
    for name in parts:
        yield archive({key: value for key, value in parts.items() if key != name})
        yield archive({**parts, name: b""})
    script = io.BytesIO()
    torch.jit.save(torch.jit.script(torch.nn.Linear(2, 2)), script)
    yield script.getvalue()
    yield from _tars(folder)
    yield from (
        b"",
        b"PK\x03\x04",
        b"\x89PNG\r\n\x1a\n" + bytes(99),
        b"{}",
        b"\x1f\x8b" + bytes(9),
    )
    for value in (None, 3, "text", [1], {1: 2}, {"a": {}}, {"model": 3}, {"state_dict": {}}):
        file = io.BytesIO()
        torch.save(value, file)
        yield file.getvalue()
        yield pickle.dumps(value)


def _tars(folder):
    """torch's format of 2017, whose parts it unpacks; here they are links."""
    for kind, target in (
        (tarfile.SYMTYPE, "/etc/passwd"),
        (tarfile.LNKTYPE, "/etc/passwd"),
        (tarfile.REGTYPE, ""),
    ):
        file = io.BytesIO()
        with tarfile.open(fileobj=file, mode="w") as tar:
            for name in ("storages", "tensors", "pickle", "sys_info", f"{folder}/ran", "../ran"):
                info = tarfile.TarInfo(name)
                info.type, info.linkname = kind, target
                tar.addfile(info)
        yield file.getvalue()
