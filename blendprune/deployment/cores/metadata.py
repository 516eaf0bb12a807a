"""The JSON that an exported file carries: family, settings, and the names of its cores' tensors.

::

    {"format": 1, "family": "RetinaNet", "settings": {…},
     "cores": {"image": {"file": null, "inputs": ["images"], "outputs": ["logits_p3", …]}}}

``"file"`` is null for the core that lies in the file itself. Another core lies in a file beside it,
whose bare name it is. Files come from anyone: everything is checked, nothing is run.
"""

import json
import re
from dataclasses import dataclass

from ...errors import DeployError
from . import schema
from .family import FAMILIES, check_settings

KEY = "blendprune"
FORMAT = 1
_MOST_CHARACTERS = 4_000_000

_AGAIN = "export the model again"
_TENSORS = schema.list_of(schema.name, most=256)


def _file(value, where):
    good = isinstance(value, str) and re.fullmatch(
        r"[^./\\:\x00-\x1f][^/\\:\x00-\x1f]*\.onnx", value
    )
    if not good or len(value) > 255:
        raise schema.Invalid(f"{where} is {value!r:.80}, not the name of a file beside this one")
    return value


_METADATA = schema.record(
    format=schema.integer(),
    family=schema.name,
    settings=schema.anything,
    cores=schema.mapping(
        schema.record(file=schema.optional(_file), inputs=_TENSORS, outputs=_TENSORS)
    ),
)


@dataclass(frozen=True)
class CoreNames:
    """Where a core lies, and the names of its tensors.

    Attributes:
        file (str | None): bare name of a file beside this one; None for this file.
        inputs (list[str]): names.
        outputs (list[str]): names.
    """

    file: str
    inputs: list
    outputs: list


@dataclass(frozen=True)
class Metadata:
    """What :func:`read_metadata` gives.

    Attributes:
        family (str): a key of ``FAMILIES``.
        settings (dict): checked; see the family's file.
        cores (dict[str, CoreNames]): the first one has no ``file``.
    """

    family: str
    settings: dict
    cores: dict


def pack_metadata(found, files=None):
    """The JSON for the first file of a model.

    Args:
        found (CoreSet): from ``cores_of``.
        files (dict[str, str] | None): name of each core but the first → bare name of its file.

    Returns:
        str: the value of the metadata property ``"blendprune"``.

    Raises:
        DeployError: a name or a setting would be refused by :func:`read_metadata`.
    """
    text = json.dumps(
        {
            "format": FORMAT,
            "family": found.family,
            "settings": found.settings,
            "cores": {
                name: {
                    "file": (files or {}).get(name),
                    "inputs": list(core.inputs),
                    "outputs": list(core.outputs),
                }
                for name, core in found.cores.items()
            },
        }
    )
    read_metadata(text)
    return text


def read_metadata(text, where="the file"):
    """Read and check the JSON of a file.

    Args:
        text (str): value of the metadata property ``"blendprune"``.
        where (str): what messages call the file.

    Returns:
        Metadata: checked.

    Raises:
        DeployError: it is no such JSON, of another format, or has invalid values.
    """
    what = f"the blendprune metadata of {where}"
    if len(text) > _MOST_CHARACTERS:
        raise DeployError(f"{what} has {len(text)} characters, more than any model's: {_AGAIN}")
    try:
        data = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise DeployError(f"{what} is not JSON ({error}): {_AGAIN}") from None
    version = data.get("format") if isinstance(data, dict) else None
    if isinstance(version, int) and version > FORMAT:
        raise DeployError(
            f"{what} has format {version}, this blendprune reads formats up to {FORMAT}: install "
            "a newer blendprune"
        )
    try:
        found = _METADATA(data, "metadata")
        if found["format"] != FORMAT:
            raise schema.Invalid(f"metadata.format is {found['format']}, not {FORMAT}")
        if found["family"] not in FAMILIES:
            raise schema.Invalid(
                f"metadata.family is {found['family']!r}, not one of {', '.join(FAMILIES)}"
            )
        settings = check_settings(found["family"], found["settings"])
        cores = {name: CoreNames(**core) for name, core in found["cores"].items()}
        _check_files(cores)
    except schema.Invalid as error:
        raise DeployError(f"{what} is invalid, because {error}: {_AGAIN}") from None
    return Metadata(found["family"], settings, cores)


def _check_files(cores):
    first, *others = cores.items()
    if first[1].file is not None:
        raise schema.Invalid(f"metadata.cores.{first[0]}.file is {first[1].file!r}, not null")
    files = [core.file for _, core in others]
    for name, core in others:
        if core.file is None:
            raise schema.Invalid(f"metadata.cores.{name}.file is null, not the name of its file")
    if len(set(files)) < len(files):
        raise schema.Invalid("metadata.cores names one file twice")
