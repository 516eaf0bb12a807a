"""Check a wheel and an sdist from outside: what they hold, and what the wheel does once installed.

::

    make package                                     # builds both and checks them
    python tests/package.py build/package            # checks those of a folder

The wheel goes into an empty virtual environment, with its requirements from pip's index, but
without detectron2. Options of pip, such as a constraint on torch's build, come from its environment
variables. With ``--site-packages DIR``, the requirements are those of that folder instead.
"""

import argparse
import json
import os
import subprocess
import sys
import tarfile
import tempfile
import venv
import zipfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
#: Of the repository, and of no use in an sdist.
LEFT_OUT = {".gitignore", ".ci/run"}
# Runs in the installed package: the names that come late, the yaml, the templates of the pages.
_SMOKE = """
import importlib.resources, json, sys, blendprune
found = importlib.resources.files("blendprune")
print(json.dumps({
    "file": blendprune.__file__,
    "version": blendprune.__version__,
    "names": sorted(blendprune.__all__) == dir(blendprune),
    "config": "BlendMask" in found.joinpath("data/digits.yaml").read_text(),
    "page": found.joinpath("report/base.html").read_text()[:9],
    "typed": found.joinpath("py.typed").is_file(),
    "detectron2": "detectron2" in sys.modules,
}))
"""


def tracked():
    """Files of the repository (set[str])."""
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, check=True)
    return set(listed.stdout.decode().splitlines())


def check_files(wheel, sdist, files):
    """Compare what was built with the repository.

    Args:
        wheel (Path), sdist (Path): what was built.
        files (set[str]): of the repository.

    Raises:
        SystemExit: a file is missing, or one is there that the repository does not have.
    """
    with zipfile.ZipFile(wheel) as archive:
        held = {name for name in archive.namelist() if ".dist-info/" not in name}
        licenses = [name for name in archive.namelist() if name.endswith("/LICENSE")]
    _expect(held, {name for name in files if name.startswith("blendprune/")}, wheel.name)
    if not licenses:
        sys.exit(f"{wheel.name} lacks LICENSE: name it in setup.cfg")
    with tarfile.open(sdist) as archive:
        held = {m.name.partition("/")[2] for m in archive if m.isfile()}
    made = {name for name in held if ".egg-info/" in name or name == "PKG-INFO"}
    _expect(held - made, files - LEFT_OUT, sdist.name)


def _expect(held, wanted, what):
    for names, how in ((wanted - held, "lacks"), (held - wanted, "holds besides")):
        if names:
            sys.exit(f"{what} {how} {', '.join(sorted(names))}: see MANIFEST.in and setup.cfg")


def install(wheel, folder, site_packages=None):
    """Install the wheel into a new virtual environment.

    Args:
        wheel (Path): what was built.
        folder (Path): of the environment.
        site_packages (Path | None): where the requirements are; None installs them.

    Returns:
        Path: the folder of its commands.
    """
    venv.create(folder, with_pip=True)
    commands = folder / "bin"
    options = ["--no-deps"] if site_packages else []
    _run([commands / "python", "-m", "pip", "install", "--quiet", *options, wheel], folder)
    if site_packages:
        where = "import sysconfig; print(sysconfig.get_path('purelib'))"
        own = _run([commands / "python", "-c", where], folder).stdout.strip()
        _link_all_but_detectron2(site_packages, Path(own))
    return commands


def _link_all_but_detectron2(source, target):
    for path in source.iterdir():
        name = path.name.lower()
        ours = "detectron2" in name or "blendprune" in name or name == "__pycache__"
        if not ours and not (target / path.name).exists():
            (target / path.name).symlink_to(path)


def smoke_test(commands, version):
    """Use what is installed, outside the checkout.

    Args:
        commands (Path): folder of the commands.
        version (str): that the wheel must have.

    Raises:
        SystemExit: a command or an import does not do what it should.
    """
    blendprune, python = commands / "blendprune", commands / "python"
    with tempfile.TemporaryDirectory() as folder:
        shown = _run([blendprune, "--version"], folder).stdout
        _same("blendprune --version", shown, f"blendprune {version}\n")
        if "doctor" not in _run([blendprune, "--help"], folder).stdout:
            sys.exit("blendprune --help lists no command")
        found = json.loads(_run([python, "-c", _SMOKE], folder).stdout)
        if not Path(found.pop("file")).is_relative_to(commands.parent.resolve()):
            sys.exit("the package that was imported is not that of the wheel")
        wanted = {"version": version, "names": True, "config": True, "page": "<!doctype"}
        _same("the package", found, wanted | {"typed": True, "detectron2": False})
        if "not installed" not in _run([blendprune, "status"], folder).stdout:
            sys.exit("blendprune status does not say that detectron2 is not installed")
        refused = _run([blendprune, "doctor"], folder, code=2).stderr.strip()
        if refused.count("\n") or "detectron2 is not installed" not in refused:
            sys.exit(f"blendprune doctor without detectron2 says: {refused}")


def _same(what, found, wanted):
    if found != wanted:
        sys.exit(f"{what} gives {found!r}, and should give {wanted!r}")


def _run(command, folder, code=0):
    kept = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "PYTHONHOME")}
    done = subprocess.run(command, cwd=folder, env=kept, capture_output=True, text=True)
    if done.returncode != code:
        sys.exit(f"{' '.join(map(str, command))} ended with {done.returncode}:\n{done.stderr}")
    return done


def main():
    """Check what lies in a folder; ends the process with a sentence where something is wrong."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("folder", type=Path, help="with one wheel and one sdist")
    parser.add_argument("--site-packages", type=Path, metavar="DIR", help="has the requirements")
    args = parser.parse_args()
    folder = args.folder.resolve()
    [wheel], [sdist] = folder.glob("*.whl"), folder.glob("*.tar.gz")
    check_files(wheel, sdist, tracked())
    with tempfile.TemporaryDirectory() as empty:
        commands = install(wheel, Path(empty) / "venv", args.site_packages)
        smoke_test(commands, wheel.name.split("-")[1])
    print(f"{wheel.name} and {sdist.name} hold what they should, and the wheel works")


if __name__ == "__main__":
    main()
