"""``MEInstOutputs`` of AdelaiDet, which otherwise neither trains nor detects.

Extended: ``MEInst_losses`` and ``forward_for_single_feature_map``. ``IOULoss`` takes IoUs since
AdelaiDet added GIoU, but MEInst still passes boxes, so the boxes are turned into IoUs. Inference
takes a ``view`` of permuted class scores, which current PyTorch allows only for channels-last
scores, so the scores are converted. Left alone: the rest of the class.
"""

import torch

from ._patch import Patch, importable


def losses(wrapped, instance, args, kwargs):
    """Compute the losses; turn boxes into IoUs for the box loss."""
    from adet.utils.comm import compute_ious

    loss = instance.iou_loss
    instance.iou_loss = lambda pred, target, weight: loss(*compute_ious(pred, target), weight)
    try:
        return wrapped(*args, **kwargs)
    finally:
        instance.iou_loss = loss


def detect(wrapped, instance, args, kwargs):
    """Detect, with the class scores (N, C, H, W) in channels-last memory format."""
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
