"""A shell whose ``python`` and ``blendprune`` start at once.

Both are small programs on its PATH. They send their arguments to this process, which runs them in
a process that has imported everything (:class:`~tests.helpers.fresh_python.FreshPython`)::

    shell = WarmShell(folder)
    shell("sh recipe.sh output", cwd=examples)
"""

import json
import os
import socketserver
import subprocess
import sys
import threading

from tests.helpers.fresh_python import FreshPython

_IMPORTS = ("detectron2.engine", "detectron2.model_zoo", "detectron2.evaluation", "blendprune")
_IMPORTS += ("blendprune.pipeline", "blendprune.training", "blendprune.report.images")
_IMPORTS += ("blendprune.deployment.export", "onnxscript", "onnxruntime", "torch.onnx")
_IMPORTS += ("torch._dynamo", "torch.export", "onnxruntime.quantization")

_PROGRAM = """#!{python} -IS
import json, os, socket, sys
with socket.socket(socket.AF_UNIX) as link:
    link.connect({address!r})
    asked = [{name!r}, sys.argv[1:], os.getcwd(), dict(os.environ)]
    link.sendall(json.dumps(asked).encode() + b"\\n")
    code, stdout, stderr = json.load(link.makefile())
sys.stdout.write(stdout)
sys.stderr.write(stderr)
sys.exit(code)
"""
_CODE = {
    "python": """
import os, runpy, sys
del sys.argv[0]
sys.path.insert(0, os.path.dirname(os.path.abspath(sys.argv[0])))
runpy.run_path(sys.argv[0], run_name="__main__")
""",
    "blendprune": "import sys; from blendprune.__main__ import main; sys.exit(main())",
}


class WarmShell:
    """Runs shell commands.

    Args:
        folder (pathlib.Path): for the two programs.
    """

    def __init__(self, folder):
        self._bin, self._python = folder / "bin", FreshPython(_IMPORTS)
        self._bin.mkdir()
        address = str(folder / "socket")
        self._server = _Server(address, self._answer)
        for name in _CODE:
            program = self._bin / name
            program.write_text(_PROGRAM.format(python=sys.executable, address=address, name=name))
            program.chmod(0o755)

    def __call__(self, *command, cwd, **environ):
        """Run a command.

        Args:
            command (str | Path): a program and its arguments.
            cwd (str | Path): where it runs.
            environ (str): more variables of its environment.

        Returns:
            str: what it printed.
        """
        path = os.pathsep.join([str(self._bin), os.environ["PATH"]])
        done = subprocess.run(
            [*map(str, command)],
            cwd=cwd,
            env={**os.environ, "OMP_NUM_THREADS": "1", **environ, "PATH": path},
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-5000:]
        return done.stdout

    def close(self):
        """End both processes."""
        self._server.shutdown()
        self._server.server_close()
        self._python.close()

    def _answer(self, name, args, cwd, environ):
        try:
            done = self._python(_CODE[name], *args, cwd=cwd, environ=environ)
        except AssertionError as error:
            return 1, "", str(error)
        return 0, done.stdout, done.stderr


class _Server(socketserver.UnixStreamServer):
    def __init__(self, address, answer):
        self.answer = answer
        super().__init__(address, _Handler)
        threading.Thread(target=self.serve_forever, daemon=True).start()


class _Handler(socketserver.StreamRequestHandler):
    def handle(self):
        answer = self.server.answer(*json.loads(self.rfile.readline()))
        self.wfile.write(json.dumps(answer).encode())
