"""Results in the size that the inputs ask for."""

from detectron2.modeling.meta_arch.panoptic_fpn import combine_semantic_and_instance_outputs
from detectron2.modeling.postprocessing import detector_postprocess, sem_seg_postprocess
from torch.nn import functional as F


def output_sizes(images, batched_inputs):
    """Height and width of each result, in pixels.

    Args:
        images (ImageList): prepared.
        batched_inputs (list[dict]): detectron2's format.

    Returns:
        list[tuple[int, int]]: the size of the image, if its input names no other.
    """
    return [
        (x.get("height", size[0]), x.get("width", size[1]))
        for x, size in zip(batched_inputs, images.image_sizes)
    ]


def scaled(instances, images, batched_inputs):
    """Detections in the size of the results, masks pasted.

    Args:
        instances (list[Instances]): per image.
        images (ImageList), batched_inputs (list[dict]): as for :func:`output_sizes`.

    Returns:
        list[Instances]: per image.
    """
    sizes = output_sizes(images, batched_inputs)
    return [detector_postprocess(each, *size) for each, size in zip(instances, sizes)]


def semantic(logits, stride, images, batched_inputs):
    """Semantic logits in the size of the results.

    Args:
        logits (Tensor): (N, K, H, W), ``stride`` pixels of the padded images per cell.
        stride (int): of the semantic head.
        images (ImageList), batched_inputs (list[dict]): as for :func:`output_sizes`.

    Returns:
        list[Tensor]: per image (K, height, width).
    """
    logits = F.interpolate(logits, scale_factor=stride, mode="bilinear", align_corners=False)
    sizes = zip(images.image_sizes, output_sizes(images, batched_inputs))
    return [sem_seg_postprocess(x, size, *output) for x, (size, output) in zip(logits, sizes)]


def panoptic(instances, sem_seg, combine):
    """Instances and semantic logits of an image in one map.

    Args:
        instances (Instances): scaled.
        sem_seg (Tensor): (K, height, width).
        combine (dict): thresholds from the settings.

    Returns:
        dict: ``"instances"``, ``"sem_seg"`` and ``"panoptic_seg"``.
    """
    seg = combine_semantic_and_instance_outputs(
        instances,
        sem_seg.argmax(dim=0),
        combine["overlap"],
        combine["stuff_area"],
        combine["instance_score"],
    )
    return {"instances": instances, "sem_seg": sem_seg, "panoptic_seg": seg}
