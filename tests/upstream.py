"""detectron2's own tests, without the overlay and with it: what differs.

::

    make upstream-tests DETECTRON2_ROOT=../detectron2
    python tests/upstream.py ../detectron2 -k checkpoint    # what follows goes to pytest

The tests run on the detectron2 of the checkout. A test that gives another outcome under the overlay
runs again in both ways; what differs twice is a difference::

    ../detectron2/detectron2/__init__.py
    plain      233 passed, 65 failed, 30 skipped, 2 error
    overlay    235 passed, 63 failed, 30 skipped, 2 error
    gained: tests.layers.test_deformable.DeformableTest::test_repr: plain failed, overlay passed
    gained: tests.layers.test_deformable.DeformableTest::test_forward_output_on_cpu: plain ...
    no differences, 2 gained

A test is gained if it fails without the overlay and passes with it: the overlay brings operators
that detectron2 compiles. The exit code is 0 without other differences, 1 with some, 2 if no test
passes without the overlay.
"""

import argparse
import collections
import os
import subprocess
import sys
import tempfile
import xml.etree.ElementTree
from pathlib import Path

REPO = Path(__file__).resolve().parents[1]
#: Form of a run → what pytest gets for it.
FORMS = {"plain": (), "overlay": ("-p", "blendprune.auto")}


def run(root, form, options=()):
    """Run a checkout's tests in one form.

    Args:
        root (Path): the checkout.
        form (str): a key of :data:`FORMS`.
        options (Sequence[str]): more options of pytest.

    Returns:
        dict[str, str]: id of a test → passed, failed, error or skipped.
    """
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder, "report.xml")
        command = [
            *(sys.executable, "-m", "pytest", "-q", "--import-mode=prepend"),
            *("-p", "no:cacheprovider", "-p", "no:xdist", *FORMS[form]),
            "--continue-on-collection-errors",
            *("-c", os.devnull, f"--rootdir={root}", f"--junit-xml={report}"),
            *(*options, "tests"),
        ]
        path = [str(root), str(REPO), os.environ.get("PYTHONPATH", "")]
        subprocess.run(
            command,
            cwd=root,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env={
                **os.environ,
                "PYTHONPATH": os.pathsep.join(filter(None, path)),
                "PYTHONDONTWRITEBYTECODE": "1",
            },
        )
        return outcomes(report) if report.exists() else {}


def outcomes(report):
    """Read the outcome of each test from a JUnit report.

    Args:
        report (Path): written by pytest.

    Returns:
        dict[str, str]: as :func:`run` returns.
    """
    found = {}
    for case in xml.etree.ElementTree.parse(report).iter("testcase"):
        kinds = [child.tag for child in case]
        kind = next((k for k in ("error", "failure", "skipped") if k in kinds), "passed")
        name = f"{case.get('classname')}::{case.get('name')}"
        found[name] = {"failure": "failed"}.get(kind, kind)
    return found


def differences(plain, overlay):
    """Compare two runs.

    Args:
        plain (dict), overlay (dict): from :func:`run`.

    Returns:
        dict[str, tuple[str, str]]: id of a test → its outcomes, where they differ.
    """
    names = {**plain, **overlay}
    pairs = {name: (plain.get(name, "absent"), overlay.get(name, "absent")) for name in names}
    return {name: pair for name, pair in pairs.items() if pair[0] != pair[1]}


def main(argv=None):
    """Run both forms, print what differs, and return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("root", type=Path, help="a checkout of detectron2")
    args, options = parser.parse_known_args(argv)
    root = args.root.resolve()
    if not (root / "tests").is_dir():
        parser.error(f"{root} has no folder tests: name a checkout of detectron2")

    print(root / "detectron2" / "__init__.py", flush=True)
    runs = {}
    for form in FORMS:
        runs[form] = run(root, form, options)
        counts = collections.Counter(runs[form].values())
        print(f"{form:10} " + ", ".join(f"{n} {kind}" for kind, n in counts.most_common()))
        sys.stdout.flush()
    if "passed" not in runs["plain"].values():
        print("no test passes without the overlay: run pytest in the checkout to see why")
        return 2
    found = differences(*runs.values())
    if found:
        # Some tests of upstream depend on the clock or on random numbers.
        names = [name.rpartition("::")[2].partition("[")[0] for name in found]
        again = ["-k", " or ".join(dict.fromkeys(names))]
        second = differences(*(run(root, form, [*options, *again]) for form in FORMS))
        found = {name: pair for name, pair in found.items() if name in second}
    gained = {name for name, pair in found.items() if pair == ("failed", "passed")}
    for name, (plain, overlay) in found.items():
        gain = "gained: " if name in gained else ""
        print(f"{gain}{name}: plain {plain}, overlay {overlay}")
    lost = len(found) - len(gained)
    total = f"{lost or 'no'} difference{'' if lost == 1 else 's'}"
    print(f"{total}, {len(gained)} gained" if gained else total)
    return int(lost > 0)


if __name__ == "__main__":
    sys.exit(main())
