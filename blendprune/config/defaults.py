"""detectron2's defaults, while the overlay of another thread adds keys to them or removes them."""

import threading

#: Held while the keys come or go, and while the defaults are copied: Python copies no dict that
#: changes meanwhile. Nothing may be imported under it, since imports apply the overlay.
DEFAULTS_LOCK = threading.RLock()


def default_cfg():
    """Copy detectron2's defaults, as its ``get_cfg()`` does.

    Returns:
        CfgNode: with the keys that the defaults have now.
    """
    from detectron2.config.defaults import _C

    with DEFAULTS_LOCK:
        return _C.clone()
