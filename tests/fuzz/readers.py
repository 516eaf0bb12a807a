"""Everything that reads a file, and what one may do: read it, or raise an error of blendprune."""

import codecs
import json
import os
import warnings
from collections import Counter
from pathlib import Path
from types import SimpleNamespace

import torch

import blendprune
from blendprune.errors import BlendpruneError
from tests.fuzz.watch import TooSlow, watching
from tests.helpers.net import Net


def _read_struct(path):
    from blendprune.checkpoint import read_struct

    read_struct(path)


def _load_alone(path):
    blendprune.load(path, device="cpu")


def _load_as_configured(path):
    blendprune.load(path)


def _load_into(path):
    blendprune.load(path, model=Net(8))


def _restructure(path):
    from blendprune.checkpoint import read_struct

    blendprune.restructure(Net(8), read_struct(path))


def _info(path):
    from blendprune.pipeline.info import describe_file, info_table

    info_table(describe_file(path))


def _convert(path):
    blendprune.convert(path, os.path.join(os.path.dirname(path), "converted.pth"))


def _config(path):
    from blendprune.command_line.config import config_of

    config_of(SimpleNamespace(config_file=path, imports=(), opts=[]))


def _runtime(path):
    blendprune.runtime.load(path, threads=1)


def sensitivity():
    """A good measurement of a small model, as plain data."""
    from blendprune.pruning.search.digests import digest

    form = {"format": "blendprune.sensitivity", "version": 1}
    curves = {
        "conv": {"width": 8, "masked": [1, 4, 6], "loss": [2.5, 2.25, 4.0]},
        "up": {"width": 16, "masked": [2, 8, 12], "loss": [2.0, 3.0, 9.5]},
    }
    found = {"weights": digest(_measured()), "importance": "obs", "ratios": [0.1, 0.5, 0.75]}
    return {**form, **found, "images": 4, "loss": 2.0, "groups": curves}


def _measured():
    model = torch.nn.Linear(2, 2)
    torch.nn.init.ones_(model.weight)
    torch.nn.init.zeros_(model.bias)
    return model


def _sensitivity(path):
    from blendprune.pruning.search.sensitivity import sensitivity_table
    from blendprune.pruning.search.sensitivity_file import load_sensitivity

    found = load_sensitivity(path)
    sensitivity_table(found)
    found.check(_measured(), "obs", ratios=[0.1, 0.5, 0.75])
    parts = {"num_parts": 1, "block_size": 1, "aligned": False}
    groups = [SimpleNamespace(root=root, width=8, **parts) for root in ("conv", "up")]
    found.rescale([torch.ones(8)] * 2, groups, [8, 16])


#: By kind of file: the functions that read it.
READERS = {
    "checkpoint": (_read_struct, _load_alone, _load_into, _restructure, _info, _convert),
    "built": (_load_as_configured, _info),
    "config": (_config,),
    "exported": (_info, _runtime),
    "sensitivity": (_sensitivity,),
}


#: By kind of file: what else may be opened, because the file is a config that the caller names.
NAMED = {"config": ("/etc/passwd",)}


def warm_up(folder):
    """Let every reader read a good file and refuse a broken one: what it imports is imported.

    Args:
        folder (str): for the files.
    """
    from tests.fuzz import archives, configs
    from tests.fuzz.cases import Case
    from tests.helpers.small_onnx import write_small

    for encoding in ("cp437", "latin1", "ascii", "utf-16"):  # of names in archives, of pickles
        codecs.lookup(encoding)
    path = Path(folder, "good.onnx")
    write_small(path)
    good = {
        "checkpoint": archives.small_file(),
        "built": next(configs.inside(1, folder, seed=1)),
        "exported": path.read_bytes(),
        "config": b"VERSION: 2\n",
        "sensitivity": json.dumps(sensitivity()).encode(),
    }
    names = {"exported": "file.onnx", "config": "config.yaml", "sensitivity": "sensitivity.json"}
    for kind, content in good.items():
        for each in (content, content[: len(content) // 2], b""):
            read(Case("warm-up", names.get(kind, "file.pth"), each, kind), folder)


def read(case, folder):
    """Let every reader of a case read it.

    Args:
        case (Case): one file.
        folder (str): an own one, which gets the file.

    Returns:
        tuple[Counter, list[str]]: how many readers ``"read"`` it and ``"refused"`` it; and what
        must not be: other errors, code that ran, files that were opened, time and memory.
    """
    path, outcomes, wrong = os.path.join(folder, case.name), Counter(), []
    with open(path, "wb") as file:
        file.write(case.content)
    before = set(os.listdir(folder)) | {"converted.pth"}
    for reader in READERS[case.readers]:
        name = reader.__name__.strip("_")
        try:
            with warnings.catch_warnings(), watching(folder, *NAMED.get(case.readers, ())) as watch:
                warnings.simplefilter("ignore")
                reader(path)
            outcomes["read"] += 1
        except BlendpruneError as error:
            outcomes["refused"] += 1
            if len(str(error)) > 1500 or not str(error).isprintable():
                wrong.append(
                    f"{name}: a message of {len(str(error))} characters: {str(error)!r:.200}"
                )
        except (Exception, TooSlow) as error:
            wrong.append(f"{name}: {type(error).__name__}: {error!s:.200}")
        wrong += [f"{name}: {what}" for what in watch.seen]
        left = set(os.listdir(folder)) - before
        wrong += [f"{name}: left {what}" for what in left]
        before |= left
    return outcomes, wrong
