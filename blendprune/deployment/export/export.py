"""The one call: a model as ONNX files that an engine runs, checked before they are in place."""

import contextlib
import logging
import os
import shutil
import tempfile

from ...errors import ConfigError
from ..cores import cores_of, pack_metadata
from ..cores.metadata import KEY
from ..deploy import deploy
from ..extra import need
from .check import check_file
from .exported import Exported, ExportedCore
from .onnx_model import save, to_onnx

_log = logging.getLogger(__name__)


def export(model, path, example_inputs=None):
    """Write a model as ONNX, for onnxruntime, OpenVINO and others.

    The files hold the tensor core, with batch norms folded, for any number of images of any size.
    :func:`blendprune.runtime.load` prepares images, decodes and pastes masks around it. An R-CNN
    has more cores than one: ``model.onnx`` for images, ``model.regions.onnx`` and the like beside
    it. Weights of more than 2 GiB lie in ``model.onnx.data``.

    Each file is run in onnxruntime and compared with PyTorch, at sizes that were not traced. If an
    output differs by more than 1e-4 of its largest number, nothing is written.

    Args:
        model (nn.Module): a detectron2-style model in float32, dense or pruned, on any device. It
            stays unchanged.
        path (str): of the first file, ``"model.onnx"``. Existing files are replaced.
        example_inputs (list[dict]): as of :func:`blendprune.deploy`, which folds the norms.

    Returns:
        Exported: files, sizes, inputs and outputs, differences.

    Raises:
        ConfigError: an argument is invalid.
        DeployError: the model has no known cores, cannot be exported, or its file differs; a
            package is missing.
    """
    path = check_path(path)
    need("the export to ONNX", "onnx", "onnxscript", "onnxruntime")
    found = cores_of(deploy(model, example_inputs, channels_last=False).cpu())
    files = core_files(path, found.cores)
    with _beside(path) as folder:
        written = []
        for name, core in found.cores.items():
            model_of_core = to_onnx(core, name)
            if not written:
                others = {name: files[name] for name in list(files)[1:]}
                model_of_core.metadata_props[KEY] = pack_metadata(found, others)
            save(model_of_core, os.path.join(folder, files[name]))
            written.append(_describe(name, core, model_of_core, path, folder, files[name]))
    for each in written:
        _log.info(
            "%s: the core %r, %d bytes, opset %d", each.file, each.core, each.bytes, each.opset
        )
    return Exported(found.family, written)


def check_path(path):
    """Refuse a path that no export can be written to.

    Args:
        path (str): of the first file.

    Returns:
        str: the path.

    Raises:
        ConfigError: it is none.
    """
    if not isinstance(path, (str, os.PathLike)):
        raise ConfigError(f"path is {path!r}: pass the path of a file such as 'model.onnx'")
    path = os.fspath(path)
    folder = os.path.dirname(os.path.abspath(path))
    if os.path.isdir(path):
        raise ConfigError(f"cannot write to {path!r}, which is a folder: name a file in it")
    if not path.endswith(".onnx"):
        raise ConfigError(
            f"cannot write to {path!r}, which does not end in .onnx: name a file such as "
            "'model.onnx'"
        )
    if os.path.basename(path) == ".onnx":
        raise ConfigError(
            f"cannot write to {path!r}, which has no name before .onnx: name a file such as "
            "'model.onnx'"
        )
    if not os.path.isdir(folder):
        raise ConfigError(f"cannot write to {path!r}, whose folder does not exist: make it first")
    try:
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise ConfigError(
            f"cannot write to the folder of {path!r} ({error.strerror}): choose another"
        ) from None
    return path


def core_files(path, cores):
    """Name of each core → bare name of its file; the first has the given one."""
    stem = os.path.basename(path).removesuffix(".onnx")
    return {n: f"{stem}.onnx" if not i else f"{stem}.{n}.onnx" for i, n in enumerate(cores)}


def _describe(name, core, model, path, folder, file):
    difference = check_file(os.path.join(folder, file), core, name)
    parts = [f for f in os.listdir(folder) if f in (file, f"{file}.data")]
    return ExportedCore(
        core=name,
        file=os.path.join(os.path.dirname(path), file),
        bytes=sum(os.path.getsize(os.path.join(folder, f)) for f in parts),
        opset=model.opset_imports[""],
        inputs={v.name: _plain(v.shape) for v in model.graph.inputs},
        outputs={v.name: _plain(v.shape) for v in model.graph.outputs},
        difference=difference,
    )


def _plain(shape):
    return [d if isinstance(d, int) else d.value for d in shape]


@contextlib.contextmanager
def _beside(path):
    """A folder for the files of an export, which are moved beside each other in the end."""
    target, name = os.path.split(os.path.abspath(path))
    folder = tempfile.mkdtemp(prefix=f".{name}.", dir=target)
    try:
        yield folder
        # The first file names the others: it comes last.
        for file in sorted(os.listdir(folder), key=lambda each: each == name):
            os.replace(os.path.join(folder, file), os.path.join(target, file))
    finally:
        shutil.rmtree(folder, ignore_errors=True)
