"""Every error that blendprune raises on purpose.

::

    BlendpruneError
    ├── ConfigError (ValueError)           a config key or an argument is invalid
    ├── CheckpointError (ValueError)       a file cannot be used as requested
    │   └── StructError                    its "struct" is missing, malformed, or of another model
    │       └── UnsafeStructError          its "struct" is a pickled module
    ├── PruningError (ValueError)          a model cannot be pruned as requested
    │   └── TargetUnreachable              no allowed widths meet the target
    ├── DeployError (ValueError)           a model cannot be deployed as requested
    ├── DistributedError (RuntimeError)    a process of the job failed, or differs from the others
    ├── UpstreamDrift (RuntimeError)       upstream's source differs from what a patch expects
    └── OperatorUnavailable (RuntimeError) a compiled operator of AdelaiDet is missing

Each message says what was found, what is wanted, and what to do next.
"""


class BlendpruneError(Exception):
    """Base of every error raised by this package."""


class ConfigError(BlendpruneError, ValueError):
    """A config key or an argument is invalid."""


class CheckpointError(BlendpruneError, ValueError):
    """A checkpoint cannot be used as requested."""


class StructError(CheckpointError):
    """The ``"struct"`` of a checkpoint is missing, malformed, or describes another model."""


class UnsafeStructError(StructError):
    """The ``"struct"`` of a checkpoint is a pickled module, which is only read on request."""


class PruningError(BlendpruneError, ValueError):
    """A model cannot be pruned as requested."""


class TargetUnreachable(PruningError):
    """No combination of allowed widths meets the target.

    Attributes:
        reachable (float): the smallest reachable fraction of the dense model.
    """

    def __init__(self, message, reachable):
        super().__init__(message)
        self.reachable = reachable


class DeployError(BlendpruneError, ValueError):
    """A model cannot be deployed as requested."""


class DistributedError(BlendpruneError, RuntimeError):
    """Another process of the job failed or ended, or differs from this one."""


class UpstreamDrift(BlendpruneError, RuntimeError):
    """The installed upstream source differs from the source that a patch expects."""


class OperatorUnavailable(BlendpruneError, RuntimeError):
    """A compiled operator of AdelaiDet was called, but its extension is not built."""


def first_line(error):
    """First line of an error's message, at most 200 characters; its type if it has none.

    What a terminal would take for a command is shown as ``?``: files from anyone are quoted.
    """
    line = (str(error).strip() or type(error).__name__).splitlines()[0][:200]
    return "".join(each if each.isprintable() else "?" for each in line)


def error_line(error):
    """An exception in one line.

    Args:
        error (BaseException): any.

    Returns:
        str: its type and the first line of its message.
    """
    name = type(error).__name__
    return f"{name}: {first_line(error)}" if str(error).strip() else name
