"""``detectron2.checkpoint.DetectionCheckpointer``: checkpoints with a ``"struct"``.

Extended: ``save``, ``tag_last_checkpoint``, ``load``, ``_torch_load`` and ``_load_model``. The
first two are inherited from fvcore; the patch sets them on detectron2's class only, so other users
of fvcore's class are not affected. It reaches AdelaiDet's ``AdetCheckpointer`` and every subclass.
The release 0.6 has no ``_torch_load``: there, ``_load_file`` is extended.

Why here: fvcore writes in place: a training that is killed while it saves over a checkpoint has
lost it. And it only warns about weights of another shape, so a dense model would start from random
weights after loading a pruned file. One object of another class (a numpy number) makes torch refuse
a whole file; its message advises to disable the check. Left alone: all other loading.
"""

import pickle
import sys
import threading
from functools import partial

from ..checkpoint import extras, read_plain
from ..checkpoint.mismatch import refuse_other_widths
from ..files import WholeFiles, explained_write
from ..first_forward import ends_at_first_forward
from ..wrappers import name_as
from ._patch import Patch

_MODULE = "detectron2.checkpoint.detection_checkpoint"
# Held while a checkpointer has another path manager.
_writing = threading.RLock()


def save(wrapped, instance, args, kwargs):
    """Save ``"struct"`` beside ``"model"``; the file is whole or not there."""
    if instance.save_dir and instance.save_to_disk and "struct" not in kwargs:
        kwargs = {**kwargs, **extras(instance.model)}
    return tag_last_checkpoint(wrapped, instance, args, kwargs)


def tag_last_checkpoint(wrapped, instance, args, kwargs):
    """Call upstream's method with a path manager that writes whole files."""
    with _writing:
        upstream = instance.path_manager
        instance.path_manager = WholeFiles(upstream)
        try:
            with explained_write(instance.save_dir):
                return wrapped(*args, **kwargs)
        finally:
            instance.path_manager = upstream


def load(wrapped, instance, args, kwargs):
    """Load a checkpoint; after a refused file, the same checkpointer can load another one.

    A loop that prunes at its first forward must have one: it does not go on behind the iteration
    at which the dense training ended.
    """
    try:
        rest = wrapped(*args, **kwargs)
    finally:
        _end_load(instance)
    if ends_at_first_forward(instance.model):
        rest.pop("iteration", None)
    return rest


def _end_load(checkpointer):
    """Clear the URL that upstream keeps while it loads.

    Upstream's ``load`` asserts that it is None, but clears it only if loading succeeds.
    """
    checkpointer._parsed_url_during_load = None


def torch_load(wrapped, instance, args, kwargs):
    """Read a file; of one that needs unpickling, the plain data."""
    try:
        return wrapped(*args, **kwargs)
    except pickle.UnpicklingError:
        return read_plain(args[0], args[0])


def load_file(wrapped, instance, args, kwargs):
    """Read a file as :func:`torch_load` does; upstream itself unpickles ``.pkl`` and ``.pyth``."""
    try:
        return wrapped(*args, **kwargs)
    except pickle.UnpicklingError:
        if args[0].endswith((".pkl", ".pyth")):
            raise
        loaded = read_plain(args[0], args[0])
        return loaded if "model" in loaded else {"model": loaded}


def load_model(wrapped, instance, args, kwargs):
    """Load weights under the model's own names, but refuse those of other widths.

    A training that has pruned the model meanwhile resumes: the model takes these widths.
    """
    from ..training.resume import take_widths

    checkpoint = args[0]
    take_widths(checkpoint, instance)
    refuse_other_widths(checkpoint, instance.model)
    checkpoint["model"] = name_as(checkpoint["model"], instance.model)
    return wrapped(*args, **kwargs)


def _is_0_6():
    """Whether the imported detectron2 is of the time of its release 0.6."""
    checkpointer = getattr(sys.modules.get(_MODULE), "DetectionCheckpointer", None)
    return checkpointer is not None and not hasattr(checkpointer, "_torch_load")


def _install(module, edits, **readers):
    wrappers = dict(save=save, tag_last_checkpoint=tag_last_checkpoint, load=load)
    for name, wrapper in {**wrappers, **readers, "_load_model": load_model}.items():
        edits.wrap(module.DetectionCheckpointer, name, wrapper)


def _watches(*methods):
    return tuple(f"DetectionCheckpointer.{name}" for name in methods)


PATCHES = [
    Patch(
        name="save-struct",
        module=_MODULE,
        watches=_watches("save", "_load_file", "_load_model", "load", "_torch_load"),
        digests=("eebeaa587b1428e2",),
        install=partial(_install, _torch_load=torch_load),
        when=lambda: not _is_0_6(),
    ),
    Patch(
        name="save-struct",
        module=_MODULE,
        watches=_watches("save", "_load_file", "_load_model", "load"),
        digests=("fb641881ed252446",),
        install=partial(_install, _load_file=load_file),
        when=_is_0_6,
    ),
]
