"""A written file beside PyTorch: the same numbers, on inputs that were not traced."""

import copy

import numpy as np
import torch

from ...errors import DeployError, error_line
from ..extra import need
from ..session import open_session

# Relative to the largest number of an output.
_TOLERANCE = 1e-4
# What PyTorch itself rounds away, in float32 beside float64, may be this many times more.
_ABOVE_ROUNDING = 10
_SIDE, _LARGE = 32, 256


def check_file(path, core, name):
    """Compare a file in onnxruntime with its core in PyTorch.

    Sizes and batches are not those of the trace. One image is empty, all mean. A core of regions
    gets one and several; none, which no engine likes, :mod:`blendprune.runtime` does not pass on.

    Args:
        path (str): of the file.
        core (Core): float32, on the CPU.
        name (str): of the core, for messages.

    Returns:
        float: the largest difference, relative to the largest number of its output.

    Raises:
        DeployError: onnxruntime cannot run the file, or an output differs.
    """
    session = _open(path, name)
    largest = 0.0
    for sizes, draw in _cases(core):
        inputs, wanted = _run_core(core, sizes, draw, name)
        found = _run(session, inputs, name)
        for output, value in wanted.items():
            difference = _distance(found[output], value.numpy())
            if not difference <= _TOLERANCE and not difference <= _rounding(core, inputs, output):
                raise DeployError(
                    f"{output} of the core {name!r} differs by {difference:.1e} of its largest "
                    f"number between onnxruntime and PyTorch, at {_words(inputs)}, above "
                    f"{_TOLERANCE:g}: use other versions of PyTorch and onnxscript; nothing was "
                    "written"
                )
            largest = max(largest, difference)
    return largest


def _open(path, name):
    [onnxruntime] = need("the check of an export", "onnxruntime")
    try:
        return open_session(path, torch.get_num_threads(), spin=False)
    except Exception as error:  # classes that onnxruntime does not export
        raise DeployError(
            f"onnxruntime {onnxruntime.__version__} cannot read the core {name!r} "
            f"({error_line(error)}): install a newer onnxruntime; nothing was written"
        ) from error


def _run(session, inputs, name):
    names = [output.name for output in session.get_outputs()]
    try:
        found = session.run(names, {key: value.numpy() for key, value in inputs.items()})
    except Exception as error:
        raise DeployError(
            f"onnxruntime cannot run the core {name!r} at {_words(inputs)} ({error_line(error)}): "
            "install a newer onnxruntime; nothing was written"
        ) from error
    return dict(zip(names, found))


def _cases(core):
    """Name of each dimension → size, and what draws numbers, of each case."""
    names, sides = core.dimensions(), {}
    for name, multiple in core.multiples.items():
        sides[name] = max(multiple, -(-_SIDE // multiple) * multiple)
    counts = [name for name in names if name not in sides]
    first, *others = [name for name in names if name in sides] or [None]

    def sizes(count, one, other):
        found = dict.fromkeys(counts, count)
        return {**found, **{n: s * (one if n == first else other) for n, s in sides.items()}}

    random = torch.Generator().manual_seed(0)

    def draw(shape):
        return torch.randn(shape, generator=random)

    whole = len(core.inputs) == 1 and bool(sides)
    cases, square = [(1, 5, 2), (4, 3, 4)], 3
    if whole:
        # Some models take only multiples of a large crop: small multiples are tested.
        large = max(sides.values()) >= _LARGE
        cases, square = ([(2, 1, 2), (1, 2, 1)], 1) if large else ([(2, 2, 3), (1, 5, 2)], 3)
    for case in cases:
        yield sizes(*case), draw
    if whole:
        yield sizes(1, square, square), torch.zeros


def _run_core(core, sizes, draw, name):
    """Inputs and what PyTorch gives; larger ones if the model takes no image that small."""
    for factor in (1, 2, 4):
        larger = {n: size * factor if n in core.multiples else size for n, size in sizes.items()}
        example = core.example(**larger)
        inputs = {key: draw(x.shape).to(x) for key, x in example.items()}
        try:
            with torch.no_grad():
                return inputs, core(inputs)
        except Exception as error:  # of the model
            found = error
    raise DeployError(
        f"the core {name!r} does not run at {_words(inputs)} ({error_line(found)}): make the model "
        "take images of any size that is a multiple of its size divisibility; nothing was written"
    ) from found


def _distance(a, b):
    if a.shape != b.shape:
        return float("inf")
    if not a.size:
        return 0.0
    scale = float(np.abs(b).max())
    difference = float(np.abs(a - b).max())
    return difference / scale if scale else difference


def _rounding(core, inputs, output):
    """How far float32 may be from PyTorch's, where PyTorch's own is far from float64."""
    try:
        exact = copy.deepcopy(core.module).double()
        with torch.no_grad():
            found = exact(*(x.double() for x in inputs.values()))
    except Exception:  # code that makes float32 tensors
        return 0.0
    wanted = core(inputs)[output]
    index = list(core.outputs).index(output)
    return _ABOVE_ROUNDING * _distance(wanted.detach().numpy(), found[index].numpy())


def _words(inputs):
    return " and ".join(f"{key} {tuple(x.shape)}" for key, x in inputs.items())
