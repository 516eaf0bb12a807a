"""Try combinations of Python, PyTorch, detectron2 and AdelaiDet, each in its own environment.

::

    make compat DETECTRON2_ROOT=../detectron2 ADELAIDET_ROOT=../AdelaiDet
    python -m tests.compat --list
    python -m tests.compat 'py3.10-*' --all            # names of combinations; the whole suite
    UV_TORCH_BACKEND=cpu python -m tests.compat        # builds of PyTorch without CUDA

uv builds the environments in ``build/compat``. It takes the Pythons that it finds: ``uv python
install 3.10 3.12 3.13`` brings what is missing, and with pyenv, ``PYENV_VERSION=3.10.13:3.11.7:…``
shows it all of them. What is missing is said in its row. ``build/compat/compat.md`` and
``compat.json`` hold all combinations that were tried so far. Beside an environment's packages lies
what uv and pytest said in it.

The exit code is 1 if a patch does not apply or a test fails.
"""

import argparse
import fnmatch
import json
import sys
import time
from collections import Counter
from dataclasses import asdict

from tests.upstream import outcomes

from .combinations import COMBINATIONS, ROOT, TESTS
from .environment import Environment, Unavailable
from .table import HEADERS, markdown, row

FOLDER = ROOT / "build" / "compat"


def examine(combination, folder, tests):
    """Build an environment, look at the patches, and run tests.

    Args:
        combination (Combination): what to try.
        folder (Path): for the environment.
        tests (Sequence[str]): files and folders.

    Returns:
        dict: the combination, and ``unavailable`` (str), or ``versions`` (dict), ``patches`` (name
        of a patch → its state), ``tests`` (outcome → count), ``failures`` (list of ids),
        ``left_out`` (dict) and ``seconds`` of the tests (float).
    """
    found = {"name": combination.name, **asdict(combination)}
    environment = Environment(combination, folder)
    try:
        environment.build()
    except Unavailable as problem:
        return {**found, "unavailable": str(problem)}
    found["versions"] = environment.versions()
    states = environment.patches()
    found["patches"] = {f"{patch['name']} ({patch['target']})": patch["state"] for patch in states}
    report, start = environment.folder / "report.xml", time.monotonic()
    environment.test(tests, report)
    cases = outcomes(report) if report.exists() else {}
    found["tests"] = dict(Counter(cases.values()))
    found["failures"] = [name for name, kind in cases.items() if kind in ("failed", "error")]
    found["left_out"] = dict(environment.upstream.left_out)
    return {**found, "seconds": round(time.monotonic() - start, 1)}


def holds(found):
    """Whether nothing is wrong: a combination that this machine lacks is no failure."""
    if "unavailable" in found:
        return True
    applied = found["patches"] and set(found["patches"].values()) == {"applied"}
    return bool(applied and found["tests"].get("passed") and not found["failures"])


def main(argv=None):
    """Try combinations, write and print what was found, and return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m tests.compat")
    parser.add_argument("names", nargs="*", default=["*"], help="patterns; default: all")
    parser.add_argument("--all", action="store_true", help="run the whole suite: an hour each")
    parser.add_argument("--list", action="store_true", help="print the names, and end")
    args = parser.parse_args(argv)
    chosen = [c for c in COMBINATIONS if any(fnmatch.fnmatch(c.name, n) for n in args.names)]
    if not chosen:
        parser.error("no combination has such a name: see --list")
    if args.list:
        print("\n".join(combination.name for combination in chosen))
        return 0
    FOLDER.mkdir(parents=True, exist_ok=True)
    file = FOLDER / "compat.json"
    recorded = json.loads(file.read_text()) if file.exists() else []
    known = {found["name"]: found for found in recorded}
    print(" | ".join(HEADERS), flush=True)
    for combination in chosen:
        found = known[combination.name] = examine(
            combination, FOLDER, ["tests"] if args.all else TESTS
        )
        print(" | ".join(row(found)), flush=True)
        results = [known[c.name] for c in COMBINATIONS if c.name in known]
        file.write_text(json.dumps(results, indent=1) + "\n")
        (FOLDER / "compat.md").write_text(markdown(results))
    return int(not all(holds(known[combination.name]) for combination in chosen))


if __name__ == "__main__":
    sys.exit(main())
