"""``detectron2.checkpoint.DetectionCheckpointer``: checkpoints that carry ``"struct"``.

Extended: ``save`` (inherited from fvcore; the patch is set on detectron2's class alone, so other
users of fvcore's are not reached), ``load``, ``_load_file`` and ``_load_model``. It reaches
AdelaiDet's ``AdetCheckpointer`` and every subclass.

Why here: fvcore drops weights of another shape with a warning, so that a pruned file in a dense
model would train from random weights; and a file with a pickled module fails with torch's own text,
which advises to switch the check off. Loading is otherwise left alone.
"""

import pickle

from ..checkpoint import refuse_other_widths, refuse_pickled_module
from ..structure import structure_of
from ._patch import Patch


def save(wrapped, instance, args, kwargs):
    """Save ``"struct"`` beside ``"model"``."""
    if instance.save_dir and instance.save_to_disk and "struct" not in kwargs:
        kwargs = {**kwargs, "struct": structure_of(instance.model)}
    return wrapped(*args, **kwargs)


def load(wrapped, instance, args, kwargs):
    """Load a checkpoint; after a refused file, the same checkpointer can load another one."""
    try:
        return wrapped(*args, **kwargs)
    finally:
        _end_load(instance)


def _end_load(checkpointer):
    """Clear the URL that upstream keeps while it loads.

    Upstream's ``load`` asserts that it is None, but clears it only if loading succeeds.
    """
    checkpointer._parsed_url_during_load = None


def load_file(wrapped, instance, args, kwargs):
    """Read a file; one that needs unpickling is refused with the way out."""
    try:
        return wrapped(*args, **kwargs)
    except pickle.UnpicklingError:
        refuse_pickled_module(args[0], args[0])
        raise


def load_model(wrapped, instance, args, kwargs):
    """Load weights; those of a pruned model are refused by a model of other widths."""
    refuse_other_widths(args[0], instance.model)
    return wrapped(*args, **kwargs)


def _install(module, edits):
    checkpointer = module.DetectionCheckpointer
    edits.wrap(checkpointer, "save", save)
    edits.wrap(checkpointer, "load", load)
    edits.wrap(checkpointer, "_load_file", load_file)
    edits.wrap(checkpointer, "_load_model", load_model)


PATCHES = [
    Patch(
        name="save-struct",
        module="detectron2.checkpoint.detection_checkpoint",
        watches=tuple(
            f"DetectionCheckpointer.{n}" for n in ("save", "_load_file", "_load_model", "load")
        ),
        digests=("2d90e39427407ff9", "fb641881ed252446"),
        install=_install,
    )
]
