"""What the processes of one job exchange while they prune one model together.

Outside :func:`together`, and in a job of one process, every function does nothing. Inside, each
process has its share of the images, and all take the same decisions.

Every exchange begins with a message of each process to all others, over gloo on the CPU: also on
GPUs, because only gloo notices at once that a process has ended. The message says what the process
does and whether it has failed. So a process that fails, or does something else than the others, is
an error in all of them, and none waits for it.
"""

import contextlib
import functools
import hashlib
import threading

import torch
import torch.distributed as dist
from detectron2.utils import comm

from .errors import DistributedError, error_line

# Seconds in which a process that fails tells the others: they may be busy elsewhere.
_LAST_WORDS = 20

_group = None  # of the processes; None outside of ``together``


@contextlib.contextmanager
def together():
    """Let all processes of the job prune together until the block ends.

    Every process must enter the block. Inside, data is the share of the process, and
    ``blendprune.prune`` and ``measure_sensitivity`` give what one process gives for all shares. The
    model must have the same weights in every process; one that DistributedDataParallel wraps has.

    Raises:
        DistributedError: another process failed or ended, or the processes differ.
    """
    global _group
    if _group is not None or comm.get_world_size() == 1:
        yield
        return
    _group = _gloo_group()
    try:
        yield
        # Nobody leaves before all have succeeded.
        _exchange("end")
    except DistributedError:
        raise
    except Exception as error:
        _tell(error_line(error))
        raise
    finally:
        _group = None


def processes():
    """Number of processes that prune together; 1 outside of :func:`together`."""
    return 1 if _group is None else dist.get_world_size(_group)


def is_first():
    """Whether this process is the one that writes files and reports."""
    return _group is None or _rank() == 0


def share_of(count):
    """How many of some images each process takes: as many as every other, rounded up.

    Args:
        count (int): images of all processes.
    """
    return -(-count // processes())


def number_of(index):
    """The number, among those of all processes, of an image or batch of this one.

    The processes take turns, as the training samplers of detectron2 deal out their images.

    Args:
        index (int): in this process, from 0.
    """
    return index * processes() + (0 if _group is None else _rank())


def gathered(value):
    """The values of all processes.

    Args:
        value (object): of this process; picklable.

    Returns:
        list: one of each process, in their order.
    """
    return [value] if _group is None else _exchange("gather", value)


def joined(tensor, dim):
    """The tensors of all processes, one behind another.

    Args:
        tensor (Tensor): of this process; the others' differ from it in length alone.
        dim (int): of the length.

    Returns:
        Tensor: on the same device.
    """
    if _group is None:
        return tensor
    return torch.cat(_exchange("join", tensor.detach().cpu()), dim).to(tensor.device)


def from_first(function):
    """What a function returns in the first process; the others wait for it and do not call it.

    Args:
        function (Callable): without arguments; the result is picklable.
    """
    if _group is None:
        return function()
    found = [function()] if _rank() == 0 else [None]
    _exchange("share")
    with _naming_lost_contact():
        dist.broadcast_object_list(found, src=0, group=_group)
    return found[0]


def summed(found, keys=None):
    """Add up tensors over the processes.

    Args:
        found (dict[object, Tensor]): of this process; what another process lacks counts as 0 there.
        keys (Iterable): of all processes, in the same order in each; None: those of ``found``.

    Returns:
        dict[object, Tensor]: a new one of sums, the same in every process.

    Raises:
        DistributedError: shapes or types differ.
    """
    if _group is None:
        return found
    keys = list(found if keys is None else keys)
    own = [found.get(key) for key in keys]
    forms = [None if x is None else (x.dtype, tuple(x.shape)) for x in own]
    device = next((x.device for x in own if x is not None), "cpu")
    sums = {}
    for key, tensor, *seen in zip(keys, own, *_exchange(f"sum of {len(keys)}", forms)):
        different = set(seen) - {None}
        if len(different) > 1:
            raise DistributedError(
                f"the processes add up different tensors ({different}): start all with the same "
                "command, or prune in one process"
            )
        for dtype, shape in different:
            total = torch.zeros(shape, dtype=dtype)
            if tensor is not None:
                total.copy_(tensor.detach())
            with _naming_lost_contact():
                dist.all_reduce(total, group=_group)
            sums[key] = total.to(device)
    return sums


def copy_from_first(tensors):
    """Write the values of the first process into the tensors of all others.

    Args:
        tensors (Iterable[Tensor]): of the same shapes in every process.
    """
    if _group is None:
        return
    tensors = list(tensors)
    check_same("shapes", lambda: [tuple(x.shape) for x in tensors])
    for tensor in tensors:
        value = tensor.detach().cpu().contiguous()
        with _naming_lost_contact():
            dist.broadcast(value, src=0, group=_group)
        tensor.data.copy_(value)


def check_same(what, make):
    """Refuse to go on if something differs between the processes.

    Args:
        what (str): plural, for the message.
        make (Callable): returns the value of this process; its ``repr`` counts.

    Raises:
        DistributedError: in every process.
    """
    if _group is None:
        return
    digest = hashlib.sha256(repr(make()).encode()).hexdigest()
    digests = _exchange(f"comparison of {what}", digest)
    other = next((rank for rank, each in enumerate(digests) if each != digests[0]), None)
    if other is not None:
        raise DistributedError(
            f"process {other} has other {what} than process 0: start all processes with the same "
            "command, files and releases of the libraries, or prune in one process"
        )


@functools.lru_cache
def _gloo_group():
    # Not the default group: an evaluation that another process is still in uses that.
    return dist.new_group(backend="gloo")


def _rank():
    return dist.get_rank(_group)


def _exchange(step, value=None, failure=None):
    """Tell all processes the step and a value; returns the values of all."""
    with _naming_lost_contact():
        found = comm.all_gather((step, failure, value), _group)
    for rank, (_, error, _) in enumerate(found):
        if error is not None:
            raise DistributedError(f"process {rank} failed ({error}): see its own message")
    steps = [each for each, _, _ in found]
    if len(set(steps)) > 1:
        raise DistributedError(
            f"the processes do different things ({', '.join(steps)}): start all with the same "
            "command, or prune in one process"
        )
    return [each for _, _, each in found]


def _tell(failure):
    def tell():
        with contextlib.suppress(Exception):
            _exchange("end", failure=failure)

    # Whoever waits in another exchange hears of it there.
    teller = threading.Thread(target=tell, daemon=True)
    teller.start()
    teller.join(_LAST_WORDS)


@contextlib.contextmanager
def _naming_lost_contact():
    try:
        yield
    except RuntimeError as error:  # of gloo
        raise DistributedError(
            f"process {_rank()} has lost another one: see the message of the one that ended first"
        ) from error
