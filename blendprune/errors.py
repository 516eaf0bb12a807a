"""Every error that blendprune raises on purpose.

::

    BlendpruneError
    ├── ConfigError (ValueError)           a config key or an argument cannot hold
    ├── CheckpointError (ValueError)       a file cannot be used the way it was asked
    │   └── StructError                    its "struct" is missing, malformed, or of another model
    │       └── UnsafeStructError          its "struct" is a pickled module
    ├── PruningError (ValueError)          a model cannot be cut as asked
    │   └── TargetUnreachable              no width that is allowed meets the target
    ├── UpstreamDrift (RuntimeError)       upstream's source is not what a patch was written against
    └── OperatorUnavailable (RuntimeError) an operator of AdelaiDet was called that is not compiled

Each message is one sentence or two: what was found, what was wanted, what to do next.
"""


class BlendpruneError(Exception):
    """Base of every error raised by this package."""


class ConfigError(BlendpruneError, ValueError):
    """A config key or an argument has a value that cannot hold."""


class CheckpointError(BlendpruneError, ValueError):
    """A checkpoint cannot be used the way it was asked."""


class StructError(CheckpointError):
    """The ``"struct"`` of a checkpoint is missing, malformed, or describes another model."""


class UnsafeStructError(StructError):
    """The ``"struct"`` of a checkpoint is a pickled module, which is not read unasked."""


class PruningError(BlendpruneError, ValueError):
    """A model cannot be cut as asked."""


class TargetUnreachable(PruningError):
    """No combination of allowed widths meets the target.

    Attributes:
        reachable (float): the smallest fraction of the dense model that can be reached.
    """

    def __init__(self, message, reachable):
        super().__init__(message)
        self.reachable = reachable


class UpstreamDrift(BlendpruneError, RuntimeError):
    """The installed upstream source differs from the one a patch was written against."""


class OperatorUnavailable(BlendpruneError, RuntimeError):
    """A compiled operator of AdelaiDet was called, but its extension is not built."""
