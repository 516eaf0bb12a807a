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


def semantic(raw, settings, images, batched_inputs):
    """Semantic logits in the size of the results.

    Args:
        raw (dict[str, Tensor]): with ``"sem_seg"``, (N, K, H, W).
        settings (dict): with ``"sem_seg"``: pixels of the padded images per cell of the logits.
        images (ImageList), batched_inputs (list[dict]): as for :func:`output_sizes`.

    Returns:
        list[Tensor]: per image (K, height, width).
    """
    stride = settings["sem_seg"]["stride"]
    logits = F.interpolate(
        raw["sem_seg"], scale_factor=stride, mode="bilinear", align_corners=False
    )
    sizes = zip(images.image_sizes, output_sizes(images, batched_inputs))
    return [sem_seg_postprocess(x, size, *output) for x, (size, output) in zip(logits, sizes)]


def panoptic(instances, raw, settings, images, batched_inputs):
    """Instances and semantic logits of each image, and both in one map.

    Args:
        instances (list[Instances]): scaled.
        raw (dict[str, Tensor]), settings (dict): as for :func:`semantic`; the settings also with
            ``"combine"``, the thresholds.
        images (ImageList), batched_inputs (list[dict]): as for :func:`output_sizes`.

    Returns:
        list[dict]: ``"instances"``, ``"sem_seg"`` and ``"panoptic_seg"``.
    """
    limits = [settings["combine"][key] for key in ("overlap", "stuff_area", "instance_score")]
    return [
        {
            "instances": each,
            "sem_seg": logits,
            "panoptic_seg": combine_semantic_and_instance_outputs(
                each, logits.argmax(dim=0), *limits
            ),
        }
        for each, logits in zip(instances, semantic(raw, settings, images, batched_inputs))
    ]
