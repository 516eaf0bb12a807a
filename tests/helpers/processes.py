"""Several processes on the CPU that work together, as detectron2's ``launch`` would start them."""

import datetime
import os

import torch
import torch.multiprocessing
from detectron2.utils import comm


def in_processes(function, folder, count=2):
    """Run a function in forked processes of one job, which have all that the test has.

    Args:
        function (Callable): called without arguments, in each process.
        folder (Path): empty.
        count (int): of processes.

    Returns:
        list: what it returned in each process; in place of what it raised, the exception.
    """
    os.makedirs(folder, exist_ok=True)
    torch.multiprocessing.start_processes(
        _work, (function, str(folder), count), count, start_method="fork"
    )
    return [torch.load(f"{folder}/{rank}.pth", weights_only=False) for rank in range(count)]


def _work(rank, function, folder, count):
    torch.set_num_threads(1)
    torch.distributed.init_process_group(
        "gloo",
        f"file://{folder}/store",
        rank=rank,
        world_size=count,
        timeout=datetime.timedelta(minutes=2),
    )
    comm.create_local_process_group(count)
    try:
        found = function()
    except Exception as error:
        found = error
    torch.save(found, f"{folder}/{rank}.pth")
    torch.distributed.destroy_process_group()
