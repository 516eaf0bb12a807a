"""Forward hooks that go when their block ends."""

import contextlib

from torch import nn


@contextlib.contextmanager
def forward_hooks(modules, hook, before=False):
    """Within it, a hook is called at each forward of each module.

    Args:
        modules (Iterable[nn.Module]): each of them once.
        hook (Callable): as for ``nn.Module.register_forward_hook``.
        before (bool): call it before the forward, as ``register_forward_pre_hook`` does.
    """
    register = nn.Module.register_forward_pre_hook if before else nn.Module.register_forward_hook
    handles = [register(module, hook) for module in modules]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
