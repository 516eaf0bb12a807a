"""What an engine cannot do, in one sentence."""

import contextlib

from ....errors import DeployError, error_line


@contextlib.contextmanager
def told_of(engine, what):
    """Turn any exception of an engine into a :class:`DeployError`.

    Args:
        engine (str): its name.
        what (str): what it was to do, for example ``"load model.onnx"``.
    """
    try:
        yield
    except Exception as error:
        raise DeployError(
            f"{engine} cannot {what} ({error_line(error)}): try the other engine, or export the "
            "model again"
        ) from error


def shapes_of(arrays):
    """Shapes of inputs, for a message."""
    return ", ".join(f"{name} of {tuple(x.shape)}" for name, x in arrays.items())
