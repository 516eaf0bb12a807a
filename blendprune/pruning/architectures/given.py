"""Images, regions and instances as the stages of an architecture want them."""

import torch
from detectron2.structures import Boxes, ImageList, Instances


def has_parts(model, *paths):
    """Whether a model has attributes at these dotted paths, none of them None.

    Args:
        model (nn.Module): any model.
        paths (str): for example ``"roi_heads.pooler"``.
    """

    def has(path):
        part = model
        for name in path.split("."):
            part = getattr(part, name, None)
        return part is not None

    return all(map(has, paths))


def normalized_images(model, batched_inputs):
    """Images as the model's own forward makes them, for models without a method for it.

    Args:
        model (nn.Module): with ``normalizer``, or ``pixel_mean`` and ``pixel_std``.
        batched_inputs (list[dict]): detectron2's format; only ``"image"`` (C, H, W) is read.

    Returns:
        ImageList: normalised, padded to the size that the backbone divides by.
    """

    def normalizer(x):
        return (x - model.pixel_mean) / model.pixel_std

    normalize = getattr(model, "normalizer", normalizer)
    images = [normalize(x["image"].to(model.device)) for x in batched_inputs]
    return ImageList.from_tensors(images, model.backbone.size_divisibility)


def given_instances(images, boxes, field):
    """Boxes as instances of each image, with the fields that heads read.

    Args:
        images (ImageList): N of them.
        boxes (list[Boxes] | int): of each image; a number stands for that many boxes of the size
            of the image.
        field (str): name of the boxes in the instances.

    Returns:
        list[Instances]: N, with ``field``, ``pred_classes``, ``scores`` and ``objectness_logits``.
    """
    boxes = _whole_images(images, boxes) if isinstance(boxes, int) else boxes
    found = []
    for (height, width), each in zip(images.image_sizes, boxes):
        instances = Instances((int(height), int(width)))
        instances.set(field, each)
        instances.pred_classes = torch.zeros(len(each), dtype=torch.int64, device=each.device)
        instances.scores = each.tensor.new_ones(len(each))
        instances.objectness_logits = each.tensor.new_ones(len(each))
        found.append(instances)
    return found


def fcos_instances(images, count):
    """Instances at the corner of each image, with what FCOS knows of an instance.

    Args:
        images (ImageList): N of them.
        count (int): instances per image.

    Returns:
        list[Instances]: N, with ``pred_boxes``, ``locations``, ``fpn_levels`` and the fields of
        :func:`given_instances`.
    """
    corners = [Boxes(images.tensor.new_zeros(count, 4)) for _ in images.image_sizes]
    found = given_instances(images, corners, "pred_boxes")
    for instances in found:
        instances.locations = images.tensor.new_zeros(count, 2)
        instances.fpn_levels = torch.zeros_like(instances.pred_classes)
    return found


def fcos_limit(generator):
    """Most instances per image that AdelaiDet's FCOS keeps in inference.

    Args:
        generator (nn.Module): the proposal generator.
    """
    limits = getattr(generator, "fcos_outputs", generator)
    kept = limits.post_nms_topk_test
    # Upstream keeps everything after NMS if the number is not positive.
    return kept if kept > 0 else limits.pre_nms_topk_test


def _whole_images(images, count):
    boxes = []
    for height, width in images.image_sizes:
        box = images.tensor.new_tensor([[0, 0, width, height]])
        boxes.append(Boxes(box.repeat(count, 1)))
    return boxes
