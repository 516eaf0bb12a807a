"""Peak memory of a call."""

import contextlib

import torch

from ...pruning.tracing.allocator import give_back_memory


def peak_memory(call):
    """Memory that a call takes at its peak, beyond what was in use before.

    On the CPU this is resident memory of the process, where Linux tells. What an allocator has
    kept from earlier calls is not seen: measure the first call of a form.

    Args:
        call (Callable): without arguments.

    Returns:
        float | None: MB (10^6 bytes); None where nothing tells.
    """
    if torch.cuda.is_available():
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        call()
        torch.cuda.synchronize()
        return (torch.cuda.max_memory_allocated() - before) / 1e6
    give_back_memory()
    with contextlib.suppress(OSError), open("/proc/self/clear_refs", "w") as file:
        file.write("5")  # the peak starts again from the present
    before = _resident("VmRSS")
    call()
    peak = _resident("VmHWM")
    return None if before is None or peak is None else max(0.0, (peak - before) / 1e6)


def _resident(name):
    with contextlib.suppress(OSError), open("/proc/self/status") as file:
        for line in file:
            if line.startswith(name):
                return int(line.split()[1]) * 1024
    return None
