"""``MEInstOutputs`` of AdelaiDet, which neither trains nor detects as it stands.

Extended: the box loss gets the IoUs that ``IOULoss`` takes since AdelaiDet's GIoU came (MEInst
still gives it the boxes), and inference the class scores in the memory format of which it takes a
``view`` (since PyTorch keeps the strides of permuted maps). Otherwise the class is left alone.
"""

import torch

from ._patch import Patch, importable


def losses(wrapped, instance, args, kwargs):
    """Compute the losses, with boxes turned into IoUs for the box loss."""
    from adet.utils.comm import compute_ious

    loss = instance.iou_loss
    instance.iou_loss = lambda pred, target, weight: loss(*compute_ious(pred, target), weight)
    try:
        return wrapped(*args, **kwargs)
    finally:
        instance.iou_loss = loss


def detect(wrapped, instance, args, kwargs):
    """Pass on the class scores (N, C, H, W) with the channels last in memory."""
    locations, scores, *rest = args
    return wrapped(locations, scores.contiguous(memory_format=torch.channels_last), *rest, **kwargs)


def _install(module, edits):
    edits.wrap(module.MEInstOutputs, "MEInst_losses", losses)
    edits.wrap(module.MEInstOutputs, "forward_for_single_feature_map", detect)


PATCHES = [
    Patch(
        name="repair-meinst",
        module="adet.modeling.MEInst.MEInst_outputs",
        watches=tuple(
            f"MEInstOutputs.{name}" for name in ("MEInst_losses", "forward_for_single_feature_map")
        ),
        digests=("35efa98832946608",),
        install=_install,
        when=lambda: importable("adet"),
    )
]
