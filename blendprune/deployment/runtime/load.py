"""From an exported file to a detector."""

import os
from typing import Literal

from ...checks import check_count, similar
from ...errors import ConfigError
from .detector import Detector
from .engines import ENGINES
from .file import read_file


def load(
    path: str | os.PathLike[str],
    engine: Literal["onnxruntime", "openvino"] = "onnxruntime",
    *,
    threads: int | None = None,
) -> Detector:
    """Load an exported model.

    Args:
        path (str | os.PathLike): of the file. Those of further cores lie beside it.
        engine (str): ``"onnxruntime"`` or ``"openvino"``, on the CPU, in float32.
        threads (int | None): of the engine. None: as many as the engine likes. Decoding is
            PyTorch's and takes ``torch.set_num_threads``.

    Returns:
        Detector: takes and gives what the model does in inference.

    Raises:
        ConfigError: there is no such engine, or ``threads`` is no count.
        DeployError: a package is missing, or the file is missing, no ONNX, of a newer format or
            invalid.
    """
    if engine not in ENGINES:
        raise ConfigError(
            f"the engine {engine!r} is unknown{similar(engine, ENGINES)}: pass one of "
            f"{', '.join(map(repr, ENGINES))}"
        )
    if threads is not None:
        check_count("threads", threads)
    metadata, paths = read_file(path)
    engines = {
        name: ENGINES[engine](paths[name], core, threads) for name, core in metadata.cores.items()
    }
    return Detector(metadata.family, metadata.settings, engines)
