"""One environment: made with uv, and what runs in it."""

import io
import json
import os
import subprocess
import sys
import tarfile
from pathlib import Path

from packaging.requirements import Requirement

from .combinations import ADELAIDET, DETECTRON2, PACKAGES, ROOT

#: Variables that name checkouts.
DETECTRON2_ROOT, ADELAIDET_ROOT = "DETECTRON2_ROOT", "ADELAIDET_ROOT"


class Unavailable(Exception):
    """This machine lacks what a combination needs; the sentence says what."""


class Environment:
    """The virtual environment of a combination.

    Args:
        combination (Combination): what to install.
        folder (Path): of all environments.

    Attributes:
        folder (Path): its own. It also keeps what the commands said.
    """

    def __init__(self, combination, folder):
        self.combination, self.folder = combination, folder / combination.name
        self.upstream = DETECTRON2[combination.detectron2]
        self.python = self.folder / "bin" / "python"

    def build(self):
        """Install everything, anew.

        Raises:
            Unavailable: no such Python, no checkout, or packages that do not install.
        """
        revision = self.upstream.revision
        for variable, wanted in (
            (DETECTRON2_ROOT, revision),
            (ADELAIDET_ROOT, self.combination.adelaidet),
        ):
            if wanted and not os.environ.get(variable):
                raise Unavailable(f"{variable} names no checkout")
        python = self.combination.python
        # uv would download a missing Python unasked.
        make = ("venv", "--clear", "--no-python-downloads", "--python", python, self.folder)
        self._uv(f"no Python {python} on this machine", *make)
        own = (*self.upstream.needs, *(ADELAIDET if self.combination.adelaidet else ()))
        names = {Requirement(requirement).name for requirement in own}
        shared = PACKAGES[self.combination.packages]()
        wanted = [*own, *(r for r in shared if Requirement(r).name not in names)]
        # The package's own requirements count, too: that is what setup.cfg promises.
        self._install("the packages do not install", "--editable", ROOT, *wanted)
        if revision:
            self._install_checkout(Path(os.environ[DETECTRON2_ROOT]), revision)
        else:
            wheel = ("--no-deps", "--require-hashes", "--only-binary", ":all:")
            wheel += ("--python-version", "3.10", "--target", self._site_packages())
            file = ROOT / "requirements-detectron2.txt"
            self._install("the wheel of detectron2 does not install", *wheel, "-r", file)

    def _install_checkout(self, root, revision):
        """Install a revision from the history of a checkout, which stays as it is."""
        source = self.folder / "detectron2"
        archive = subprocess.run(["git", "archive", revision], cwd=root, capture_output=True)
        if archive.returncode:
            raise Unavailable(f"{DETECTRON2_ROOT} has no revision {revision}")
        with tarfile.open(fileobj=io.BytesIO(archive.stdout)) as files:
            files.extractall(source, filter="data")
        if self.upstream.compiled:
            options = ("--no-deps", "--no-build-isolation", source)
            self._install(f"detectron2 {revision} does not compile", *options)
            return
        # As its setup.py does.
        (source / "detectron2" / "model_zoo" / "configs").symlink_to(source / "configs")
        (self._site_packages() / "detectron2.pth").write_text(f"{source}\n")

    def _install(self, problem, *options):
        self._uv(problem, "pip", "install", "--python", self.python, *options)

    def _uv(self, problem, *command):
        done = self._run("uv.log", sys.executable, "-m", "uv", *command)
        if done.returncode:
            said = done.stderr.strip().splitlines() or [""]
            raise Unavailable(f"{problem}: {said[-1].strip()}")

    def _site_packages(self):
        where = "import sysconfig; print(sysconfig.get_path('purelib'))"
        return Path(subprocess.check_output([self.python, "-c", where], text=True).strip())

    def versions(self):
        """Releases of what is installed.

        Returns:
            dict[str, str]: name → version, Python's included.
        """
        code = (
            "import importlib.metadata as m, json, platform\n"
            "found = {d.metadata['Name'].lower(): d.version for d in m.distributions()}\n"
            "print(json.dumps({'python': platform.python_version(), **found}))"
        )
        return json.loads(subprocess.check_output([self.python, "-c", code], text=True))

    def patches(self):
        """The state of each patch.

        Returns:
            list[dict]: as ``blendprune status --json`` prints them; empty if it cannot.
        """
        command = (self.python, "-W", "ignore", "-m", "blendprune", "status", "--json")
        said = self._run("status.log", *command).stdout
        return json.loads(said) if said.startswith("[") else []

    def test(self, paths, report):
        """Run tests.

        Args:
            paths (Sequence[str]): files and folders.
            report (Path): for pytest's JUnit report.
        """
        left_out = (f"--deselect={test}" for test in self.upstream.left_out)
        pytest = ("-m", "pytest", "--continue-on-collection-errors", f"--junit-xml={report}")
        plugins = ("-p", "no:cacheprovider", "-p", "no:xdist")
        self._run("pytest.log", self.python, *pytest, *plugins, *left_out, *paths)

    def _run(self, log, *command):
        """Run a command, and keep what it says in a file of the environment."""
        done = subprocess.run(
            list(map(str, command)), cwd=ROOT, env=self._variables(), text=True, capture_output=True
        )
        self.folder.mkdir(parents=True, exist_ok=True)
        (self.folder / log).write_text(done.stdout + done.stderr)
        return done

    def _variables(self):
        kept = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", DETECTRON2_ROOT)}
        root = kept.pop(ADELAIDET_ROOT, None)
        if self.combination.adelaidet:
            kept |= {"PYTHONPATH": root, ADELAIDET_ROOT: root}
        # MAX_JOBS is ninja's, which compiles detectron2.
        return {"MAX_JOBS": "1", **kept, "OMP_NUM_THREADS": "1", "PYTHONDONTWRITEBYTECODE": "1"}
