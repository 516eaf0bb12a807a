"""Reading an exported file: its metadata, and the names of its tensors. Files come from anyone."""

import os

from ...errors import DeployError, error_line
from ..cores.metadata import KEY, read_metadata
from ..extra import need


def read_file(path):
    """The metadata of an exported file, and where its cores lie.

    Args:
        path (str | os.PathLike): of the first file.

    Returns:
        tuple[Metadata, dict[str, str]]: checked, and name of each core → path of its file.

    Raises:
        DeployError: it is no such file, or one beside it is missing or of another export.
    """
    path = os.fspath(path)
    model = _read(path, "pass the path of an exported model")
    found = {each.key: each.value for each in model.metadata_props}
    if KEY not in found:
        raise DeployError(
            f"{path} has no {KEY!r} metadata, which says how to decode its outputs: export the "
            "model by blendprune"
        )
    metadata = read_metadata(found[KEY], path)
    folder, paths = os.path.dirname(path), {}
    for name, core in metadata.cores.items():
        paths[name] = path if core.file is None else os.path.join(folder, core.file)
        if core.file is not None:
            model = _read(paths[name], f"copy it from where {os.path.basename(path)} was exported")
        _check_names(model, core, paths[name])
    return metadata, paths


def _read(path, otherwise):
    [onnx] = need("an exported file", "onnx")
    if not os.path.isfile(path):
        raise DeployError(f"there is no file {path}: {otherwise}")
    try:
        model = onnx.load(path, load_external_data=False)
    # google.protobuf.message.DecodeError, but a package of another name may raise it.
    except Exception as error:
        raise DeployError(f"{path} is no ONNX file ({error_line(error)}): {otherwise}") from None
    if not model.graph.node:
        raise DeployError(f"{path} is no ONNX file, or an empty one: {otherwise}")
    return model


def _check_names(model, core, path):
    """The names of the metadata must be those of the file."""
    weights = {each.name for each in model.graph.initializer}
    inputs = {each.name for each in model.graph.input} - weights
    outputs = {each.name for each in model.graph.output}
    for kind, wanted, found in (("input", core.inputs, inputs), ("output", core.outputs, outputs)):
        missing = sorted(set(wanted) - found) or sorted(
            (found - set(wanted)) if kind == "input" else ()
        )
        if missing:
            raise DeployError(
                f"the {kind}s of {path} differ from its metadata in {missing[0]!r}: export the "
                "model again"
            )
