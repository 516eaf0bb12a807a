"""Processes without detectron2, for code that depends on what is imported when.

Python, PyTorch and torchvision take four seconds to start. One process starts with them, imports
nothing of detectron2, AdelaiDet or blendprune, and forks for each piece of code::

    fresh = FreshPython()
    fresh("import blendprune; print(blendprune.status())")
    fresh("import sys; print(sys.argv[1:])", "a", "b", cwd=folder)
"""

import contextlib
import gc
import importlib
import json
import os
import pathlib
import subprocess
import sys
import tempfile
import traceback
import types
from dataclasses import dataclass

_ROOT = pathlib.Path(__file__).parents[2]
# What detectron2 imports.
_SLOW = ("torch", "torchvision", "fvcore.nn", "matplotlib.pyplot", "omegaconf", "pycocotools.mask")
_SLOW += ("pycocotools.cocoeval", "scipy.optimize", "torch.utils.tensorboard", "PIL.Image")


@dataclass
class Done:
    """What a piece of code printed."""

    stdout: str
    stderr: str


class FreshPython:
    """Runs code in processes of their own; the first call starts the one that forks.

    Args:
        imports (Sequence[str]): what that one imports, beside PyTorch and the like.
    """

    def __init__(self, imports=()):
        self._imports, self._process = imports, None

    def __call__(self, code, *args, cwd=_ROOT, path=(), environ=None):
        """Run code as ``python -c`` does.

        Args:
            code (str): a program.
            args (str): ``sys.argv[1:]``.
            cwd (str | Path): where it runs.
            path (Sequence[str]): in front of ``sys.path``.
            environ (dict[str, str]): its environment; None: that of this process.

        Returns:
            Done: what it printed.
        """
        if self._process is None:
            self._process = subprocess.Popen(
                [sys.executable, "-W", "ignore", "-m", __name__, *self._imports],
                cwd=_ROOT,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
            )
        with tempfile.TemporaryDirectory() as folder:
            files = [os.path.join(folder, name) for name in ("stdout", "stderr")]
            asked = {"code": code, "args": list(map(str, args)), "cwd": str(cwd), "files": files}
            asked |= {"path": list(map(str, path)), "environ": environ or dict(os.environ)}
            print(json.dumps(asked), file=self._process.stdin, flush=True)
            returncode = json.loads(self._process.stdout.readline())
            done = Done(*(pathlib.Path(file).read_text() for file in files))
        assert returncode == 0, done.stderr[-5000:]
        return done

    def close(self):
        """End the process that forks."""
        if self._process is not None:
            self._process.stdin.close()
            self._process.wait()


def _forked():
    """Fork for every line of the input; the child gets what the line asks for."""
    for line in iter(sys.stdin.readline, ""):
        child = os.fork()
        if child == 0:
            return json.loads(line)
        _, status = os.waitpid(child, 0)
        print(os.waitstatus_to_exitcode(status), flush=True)
    sys.exit()


def _main():
    for name in (*_SLOW, *sys.argv[1:]):
        with contextlib.suppress(ImportError):
            importlib.import_module(name)
    gc.collect()
    gc.freeze()  # A collection would copy the pages that processes share.
    asked = _forked()
    for number, file in enumerate([os.devnull, *asked["files"]]):
        os.dup2(os.open(file, os.O_RDWR | os.O_CREAT), number)
    os.chdir(asked["cwd"])
    os.environ.clear()
    os.environ.update(asked["environ"])
    sys.path[:0] = asked["path"]
    sys.argv = ["-c", *asked["args"]]
    main = sys.modules["__main__"] = types.ModuleType("__main__")
    code = 0
    try:
        exec(compile(asked["code"], "<code>", "exec"), vars(main))
    except SystemExit as end:
        print(end.code, file=sys.stderr)
        code = end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:
        traceback.print_exc()
        code = 1
    sys.stdout.flush()
    sys.stderr.flush()
    # Python would take down all that the parent has imported, which takes longer than most code.
    os._exit(code)


if __name__ == "__main__":
    _main()
