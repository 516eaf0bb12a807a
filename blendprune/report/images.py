"""The same images through two models, drawn side by side by detectron2's Visualizer."""

import base64
import io

import numpy as np
import torch
from detectron2.data import MetadataCatalog
from detectron2.data.catalog import Metadata
from detectron2.structures import pairwise_iou
from detectron2.utils.colormap import colormap
from detectron2.utils.visualizer import ColorMode, Visualizer
from PIL import Image

from .page import Comparison

_WIDTH = 640
_MIN_SCORE, _SAME_BOX = 0.4, 0.5


class _Visualizer(Visualizer):
    """A class has the same colour in every picture."""

    def _jitter(self, color):
        return color


def outputs_of(model, images):
    """What a model finds in images, one after the other.

    Args:
        model (nn.Module): in eval mode.
        images (list[Tensor]): (C, H, W), in INPUT.FORMAT and of the size that the network gets.

    Returns:
        list[dict]: outputs in detectron2's format, on the CPU.
    """
    return [_on_cpu(model([{"image": image}])[0]) for image in images]


def compare_images(cfg, images, dense, pruned):
    """Draw what two models have found in the same images.

    Args:
        cfg (CfgNode): of the models; its test set names the classes.
        images (list[Tensor]): as for :func:`outputs_of`.
        dense (list[dict]), pruned (list[dict]): outputs of the two models, from it.

    Returns:
        list[Comparison]: one for each image; empty if the models give nothing that can be drawn.
    """
    metadata, found = _metadata(cfg), []
    for image, *outputs in zip(images, dense, pruned):
        picture = _rgb(image, cfg.INPUT.FORMAT)
        pairs = list(zip(outputs, reversed(outputs)))
        alone = [_alone(*pair) for pair in pairs]
        drawn = [_draw(picture, output, boxes, metadata) for output, boxes in zip(outputs, alone)]
        if all(each is not None for each in drawn):
            found.append(Comparison(*map(_address, drawn), _words(outputs, alone)))
    return found


def _metadata(cfg):
    """Names of the classes, and a colour for each: the same in both pictures."""
    names = (*cfg.DATASETS.TEST, *cfg.DATASETS.TRAIN)
    known = MetadataCatalog.get(names[0]).as_dict() if names else {}
    colors = 40 * colormap(rgb=True).tolist()
    numbers = [str(i) for i in range(len(colors))]
    default = {"thing_colors": colors, "stuff_colors": colors, "stuff_classes": numbers}
    return Metadata(**(default | known))


def _on_cpu(output):
    return {
        key: (value[0].to("cpu"), value[1]) if isinstance(value, tuple) else value.to("cpu")
        for key, value in output.items()
    }


def _rgb(image, form):
    picture = image.detach().cpu().float().clamp(0, 255).to(torch.uint8).permute(1, 2, 0).numpy()
    picture = picture[..., ::-1] if form == "BGR" else picture
    if picture.shape[-1] != 3:
        picture = np.repeat(picture[..., :1], 3, -1)
    return np.ascontiguousarray(picture)


def _instances(output):
    found = output.get("instances")
    return None if found is None else found[found.scores >= _MIN_SCORE]


def _alone(output, other):
    """Boxes of one model that the other one does not find, with the same class, (N, 4)."""
    own, others = _instances(output), _instances(other)
    if own is None or not len(own) or not own.has("pred_boxes"):
        return torch.zeros(0, 4)
    same = own.pred_classes[:, None] == others.pred_classes[None]
    overlaps = pairwise_iou(own.pred_boxes, others.pred_boxes) * same
    return own.pred_boxes.tensor[~(overlaps > _SAME_BOX).any(1)]


def _draw(picture, output, boxes, metadata):
    visualizer = _Visualizer(picture, metadata, _WIDTH / picture.shape[1], ColorMode.SEGMENTATION)
    if "panoptic_seg" in output:
        visualizer.draw_panoptic_seg_predictions(*output["panoptic_seg"])
    elif "instances" in output:
        visualizer.draw_instance_predictions(_instances(output))
    elif "sem_seg" in output:
        visualizer.draw_sem_seg(output["sem_seg"].argmax(0))
    else:
        return None
    for box in boxes:
        visualizer.draw_box(box.numpy(), 1, (0.85, 0.1, 0.1), "--")
    return visualizer.output.get_image()


def _address(picture):
    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, "JPEG", quality=80)
    return f"data:image/jpeg;base64,{base64.b64encode(buffer.getvalue()).decode()}"


def _words(outputs, alone):
    if "instances" in outputs[0]:
        dense, pruned = (len(_instances(output)) for output in outputs)
        lost, new = map(len, alone)
        return (
            f"{dense} objects above a score of {_MIN_SCORE} on the left, {pruned} on the right; "
            f"{lost} of the first are lost, {new} of the second are new"
        )
    if "sem_seg" in outputs[0]:
        dense, pruned = (output["sem_seg"].argmax(0) for output in outputs)
        return f"{(dense == pruned).float().mean():.1%} of the pixels have the same class"
    return ""
