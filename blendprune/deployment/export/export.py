"""The one call: a model as ONNX files that an engine runs, checked before they are in place."""

import contextlib
import dataclasses
import logging
import os
import shutil
import tempfile
from collections.abc import Iterable
from typing import Any

from torch import nn

from ...checks import check_count
from ...errors import ConfigError, DeployError
from ...progress import Counted
from ...pruning.graph.inputs import config_inputs
from ...pruning.scores.batches import first_batches
from ...wrappers import given_model
from ..cores import cores_of, pack_metadata
from ..cores.metadata import KEY
from ..deploy import deploy
from ..extra import need
from .check import check_file
from .exported import Exported, ExportedCore
from .inputs import core_inputs
from .int8 import quantize_file
from .onnx_model import save, to_onnx
from .windows import trace_windows

_log = logging.getLogger(__name__)

#: Calibration images for int8. 30 are too few: the ranges of rare images are missed.
IMAGES = 128


def export(
    model: nn.Module,
    path: str,
    example_inputs: list[dict[str, Any]] | None = None,
    *,
    int8: bool = False,
    data: Iterable[list[dict[str, Any]]] | None = None,
    images: int = IMAGES,
) -> Exported:
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
        int8 (bool): quantize convs and linears. The first conv stays in float, and every layer
            without which the outputs differ too much from the float model's.
        data (Iterable): batches in detectron2's format for int8, such as a training loader.
        images (int): of ``data``, at most.

    Returns:
        Exported: files, sizes, inputs and outputs, differences.

    Raises:
        ConfigError: an argument is invalid.
        DeployError: the model has no known cores, cannot be exported, or its file differs; a
            package is missing.
    """
    path = check_path(path)
    calibration = _calibration(model, int8, data, images)
    need("the export to ONNX", "onnx", "onnxscript", "onnxruntime")
    inputs = example_inputs or _example_inputs(model)
    found = cores_of(trace_windows(deploy(model, inputs, channels_last=False).cpu()))
    files = core_files(path, found.cores)
    with _beside(path) as folder:
        written: list[ExportedCore] = []
        for name, core in Counted(found.cores.items(), "core"):
            model_of_core = to_onnx(core, name)
            if not written:
                others = {name: files[name] for name in list(files)[1:]}
                model_of_core.metadata_props[KEY] = pack_metadata(found, others)
            save(model_of_core, os.path.join(folder, files[name]))
            written.append(_describe(name, core, model_of_core, path, folder, files[name]))
        if calibration:
            written = _to_int8(written, folder, calibration)
    for each in written:
        _log.info(
            "%s: the core %r, %d bytes, opset %d", each.file, each.core, each.bytes, each.opset
        )
    return Exported(found.family, written)


def _example_inputs(model):
    """An image as the config has it, with the size of the results, which SOLOv2 asks for."""
    inputs = config_inputs(given_model(model))
    return inputs and [
        {**x, **dict(zip(("height", "width"), x["image"].shape[1:], strict=True))} for x in inputs
    ]


def _calibration(model, int8, data, images):
    """The images for int8, one a dict."""
    if not isinstance(int8, bool):
        raise ConfigError(f"int8 is {int8!r}: pass True or False")
    check_count("images", images)
    if not int8:
        return None
    if data is None:
        raise ConfigError(
            "int8 is calibrated on images: pass data=, batches as detectron2's loaders give them"
        )
    found = sum(first_batches(data, given_model(model), images), [])
    if len(found) < IMAGES:
        _log.warning("int8 is calibrated on %d images; %d are better", len(found), IMAGES)
    return found


def _to_int8(written, folder, images):
    """Quantize the files of an export in place, on what its cores see of the images."""
    path = os.path.join(folder, os.path.basename(written[0].file))
    inputs, quantized = core_inputs(path, images), []
    for each in written:
        file = os.path.join(folder, os.path.basename(each.file))
        if not inputs[each.core]:
            raise DeployError(
                f"no calibration image reaches the core {each.core!r}, because nothing is detected "
                "on them: pass images that show objects"
            )
        facts = quantize_file(file, file, inputs[each.core], each.core, each is written[0])
        size = os.path.getsize(file)
        quantized.append(dataclasses.replace(each, bytes=size, int8=facts))
    return quantized


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
