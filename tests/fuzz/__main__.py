"""Hostile and broken files against everything that reads a file.

::

    make fuzz                                          # more than 10 000 files
    python -m tests.fuzz --count 2000 --seed 3
    python -m tests.fuzz --kind pickle --kind archive

Each file is read by every function that reads its kind. A reader may read it, or raise an error of
``blendprune.errors``. It may not run code, import anything, open another file or a socket, start a
process, take more than 30 s, or let the memory grow by more than 1.5 GB: an audit hook and the
peak of the resident memory tell. The exit code is 1 if one did.
"""

import argparse
import collections
import logging
import resource
import tempfile
import time

import torch

import blendprune
from tests.fuzz.cases import KINDS, cases
from tests.fuzz.readers import read, warm_up
from tests.fuzz.watch import peak_mb


def main():
    """Read the files, and print what happened, kind by kind."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz")
    parser.add_argument("--count", type=int, default=11_000)  # some kinds have fewer
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--kind", action="append", choices=KINDS)
    args = parser.parse_args()

    from blendprune import modeling

    torch.set_num_threads(1)
    logging.disable(logging.ERROR)
    resource.setrlimit(resource.RLIMIT_AS, (64 << 30, resource.RLIM_INFINITY))
    found = collections.defaultdict(collections.Counter)
    with tempfile.TemporaryDirectory() as folder, blendprune.applied():
        modeling.register()
        warm_up(folder)
        before, start = peak_mb(), time.time()
        for case in cases(args.count, folder, args.seed, args.kind or KINDS):
            begin = time.time()
            outcomes, wrong = read(case, folder)
            found[case.kind].update(outcomes, files=1, wrong=len(wrong))
            found[case.kind]["s"] += time.time() - begin
            for what in wrong:
                print(f"WRONG {case.kind}: {what}", flush=True)
    total = collections.Counter()
    print(f"{'kind':16}{'files':>8}{'read':>8}{'refused':>9}{'wrong':>7}{'s':>7}")
    for kind, row in found.items():
        total.update(row)
        print(_line(kind, row))
    print(_line("all", total))
    print(
        f"{time.time() - start:.0f} s; the peak of the memory grew by {peak_mb() - before:.0f} MB"
    )
    return int(total["wrong"] > 0)


def _line(kind, row):
    numbers = f"{row['files']:8}{row['read']:8}{row['refused']:9}{row['wrong']:7}"
    return f"{kind:16}{numbers}{row['s']:7.0f}"


if __name__ == "__main__":
    raise SystemExit(main())
