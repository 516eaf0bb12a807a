"""A number of files of each kind."""

import io
import itertools
import json
import pickle
from dataclasses import dataclass

import torch
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import seed as seeded

from tests.fuzz import archives, configs, exported, pickles, readers, structs


@dataclass(frozen=True)
class Case:
    """One file, and what reads it.

    Attributes:
        kind (str): a key of :data:`KINDS`.
        name (str): of the file.
        content (bytes): of the file.
        readers (str): a key of :data:`tests.fuzz.readers.READERS`.
    """

    kind: str
    name: str
    content: bytes
    readers: str = "checkpoint"


def _drawn(strategy, count, seed):
    """Examples of a strategy, the same ones for the same seed."""
    found = []

    @settings(
        max_examples=count,
        database=None,
        deadline=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @seeded(seed)
    @given(strategy)
    def collect(value):
        found.append(value)

    collect()
    return found


def _saved(value):
    file = io.BytesIO()
    try:
        torch.save(value, file)
    except RecursionError:  # pickle does not write what is nested deeper
        return pickle.dumps(None)
    return file.getvalue()


def _structs(count, folder, seed):
    net = structs.Net(4).state_dict()
    for struct in _drawn(structs.structs(), count // 2, seed):
        yield _saved({"model": net, "struct": struct})
    for checkpoint in _drawn(structs.checkpoints(), count - count // 2, seed):
        yield _saved(checkpoint)


def _pickles(count, folder, seed):
    """All of them if there is room, else an even choice."""
    found = list(pickles.pickles(folder))
    return found[:: max(1, -(-len(found) // count))]


def _onnx(count, folder, seed):
    for value in _drawn(exported.metadata(), count // 2, seed):
        yield exported.with_metadata(value, folder)
    yield from exported.broken(count - count // 2, folder, seed)


def _sensitivities(count, folder, seed):
    """A measurement as it is saved, with one to three changes; the first one has none."""
    good = readers.sensitivity()
    for value in itertools.chain([good], _drawn(structs.changed(good), count, seed)):
        try:
            yield json.dumps(value, default=str).encode()
        except (TypeError, ValueError):
            yield b"[" * 100_000


#: Kind → share of all cases, what makes them, name of the file, what reads it.
KINDS = {
    "structure": (0.25, _structs, "file.pth", "checkpoint"),
    "cut off": (0.26, lambda n, folder, seed: archives.truncated(n), "file.pth", "checkpoint"),
    "flipped bits": (
        0.16,
        lambda n, folder, seed: archives.flipped(n, seed),
        "file.pth",
        "checkpoint",
    ),
    "pickle": (0.16, _pickles, "file.pth", "checkpoint"),
    "archive": (0.01, lambda n, folder, seed: archives.repacked(folder), "file.pth", "checkpoint"),
    "config inside": (0.04, configs.inside, "file.pth", "built"),
    "config beside": (
        0.04,
        lambda *a: map(str.encode, configs.beside(*a)),
        "config.yaml",
        "config",
    ),
    "exported": (0.06, _onnx, "file.onnx", "exported"),
    "sensitivity": (0.02, _sensitivities, "sensitivity.json", "sensitivity"),
}


def cases(count, folder, seed=0, kinds=KINDS):
    """About ``count`` files, of each kind its share.

    Args:
        count (int): of all kinds together.
        folder (str): where what a file runs would leave a trace.
        seed (int): of what is drawn.
        kinds (Iterable[str]): keys of :data:`KINDS`.

    Yields:
        Case: kind by kind.
    """
    for kind in kinds:
        share, make, name, readers = KINDS[kind]
        most = max(1, round(share * count))
        for content in itertools.islice(make(most, folder, seed), most):
            yield Case(kind, name, content, readers)
