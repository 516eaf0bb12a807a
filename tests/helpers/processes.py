"""Several processes on the CPU that work together, as detectron2's ``launch`` would start them."""

import datetime
import os
import traceback

import torch
import torch.multiprocessing
from detectron2.utils import comm

#: A backend that refuses tensors of the CPU, as nccl does, and here is given no others.
NO_CPU = "no_cpu"


class _Refusing(torch.distributed.ProcessGroup):
    """Every exchange over it fails."""

    def __getattribute__(self, name):
        if name in ("allgather", "allreduce", "barrier", "broadcast", "gather", "reduce", "send"):
            raise RuntimeError(f"{name}: no tensors of the CPU")
        return super().__getattribute__(name)


def in_processes(function, folder, count=2, backend="gloo"):
    """Run a function in forked processes of one job, which have all that the test has.

    None is ended because another one ended, as on several machines.

    Args:
        function (Callable): called without arguments, in each process.
        folder (Path): empty.
        count (int): of processes.
        backend (str): of the default group: ``"gloo"`` or :data:`NO_CPU`.

    Returns:
        list: what it returned in each process; in place of what it raised, the exception; of a
        process that was killed, the exit code.
    """
    os.makedirs(folder, exist_ok=True)
    context = torch.multiprocessing.get_context("fork")
    started = [
        context.Process(target=_work, args=(function, str(folder), count, rank, backend))
        for rank in range(count)
    ]
    for each in started:
        each.start()
    for each in started:
        each.join()
    return [
        each.exitcode or torch.load(f"{folder}/{rank}.pth", weights_only=False)
        for rank, each in enumerate(started)
    ]


def _work(function, folder, count, rank, backend):
    torch.set_num_threads(1)
    if backend == NO_CPU:
        torch.distributed.Backend.register_backend(
            NO_CPU, lambda store, rank, count, timeout: _Refusing(rank, count), devices=["cpu"]
        )
    torch.distributed.init_process_group(
        backend,
        f"file://{folder}/store",
        rank=rank,
        world_size=count,
        timeout=datetime.timedelta(minutes=2),
    )
    comm.create_local_process_group(count)
    try:
        found = function()
    except Exception as error:
        traceback.print_exc()
        found = error
    torch.save(found, f"{folder}/{rank}.pth")
