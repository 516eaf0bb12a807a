"""The packages of the extra ``blendprune[deploy]``, which only the deployment of files needs."""

import importlib

from ..errors import DeployError, error_line

#: The packages of the extra, as setup.cfg has them.
PACKAGES = ("onnx", "onnxscript", "onnxruntime", "openvino")


def need(what, *packages):
    """Import packages of the extra.

    Args:
        what (str): what needs them, for the message.
        packages (str): their names.

    Returns:
        list[module]: the packages.

    Raises:
        DeployError: one is not installed, or cannot be imported.
    """
    found = []
    for name in packages:
        try:
            found.append(importlib.import_module(name))
        except ImportError as error:
            missing = isinstance(error, ModuleNotFoundError) and error.name == name
            how = "is not installed" if missing else f"cannot be imported ({error_line(error)})"
            raise DeployError(
                f"{what} needs {name}, which {how}: pip install 'blendprune[deploy]'"
            ) from None
    return found
