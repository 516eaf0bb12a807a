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
_MIN_SCORE, _SAME_BOX = 0.5, 0.5
# Of classes, in turns: none can be taken for a mark.
_CLASS_COLORS = (
    (66, 133, 244), (52, 168, 83), (150, 110, 220), (0, 172, 193), (205, 190, 40),
    (120, 144, 156), (0, 121, 107), (63, 81, 181),
)  # fmt: skip
_MARK, _MARK_TEXT = (0.9, 0.1, 0.1), (1.0, 0.65, 0.6)


class _Visualizer(Visualizer):
    """A class has the same colour in every picture, and what one model alone finds is marked."""

    def _jitter(self, color):
        return color

    def draw_parts(self, found):
        """Draw masks and keypoints of objects, without boxes and labels.

        Args:
            found (Instances): with classes.
        """
        colors = [np.divide(self.metadata.thing_colors[i], 255) for i in found.pred_classes]
        parts = {
            name: getattr(found, f"pred_{name}")
            for name in ("masks", "keypoints")
            if found.has(f"pred_{name}")
        }
        self.overlay_instances(**parts, assigned_colors=colors, alpha=0.8)

    def draw_marks(self, found):
        """Draw dashed red boxes of objects, and labels on top of all others.

        Args:
            found (Instances): with boxes, scores and classes.
        """
        names, size = self.metadata.get("thing_classes"), self._default_font_size
        # In pixels of the picture: matplotlib has 72 points an inch.
        height = 1.5 * size * self.output.fig.dpi / 72
        for box, score, number in zip(found.pred_boxes, found.scores, found.pred_classes):
            self.draw_box(box.numpy(), 1, _MARK, "--")
            left, top, _, bottom = box.tolist()
            # Above the box: labels of other objects are inside or below.
            place = left, top - height if top > height else bottom - height
            label = f"{names[number] if names else int(number)} {score:.0%}"
            self.draw_text(
                label, place, font_size=size, color=_MARK_TEXT, horizontal_alignment="left"
            )


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
        drawn = [_draw(picture, output, marked, metadata) for output, marked in zip(outputs, alone)]
        if all(each is not None for each in drawn):
            found.append(Comparison(*map(_address, drawn), _words(outputs, alone)))
    return found


def _metadata(cfg):
    """Names of the classes, and a colour for each: the same in both pictures."""
    names = (*cfg.DATASETS.TEST, *cfg.DATASETS.TRAIN)
    known = MetadataCatalog.get(names[0]).as_dict() if names else {}
    colors = 40 * colormap(rgb=True).tolist()
    numbers = [str(i) for i in range(len(colors))]
    default = {"stuff_colors": colors, "stuff_classes": numbers}
    return Metadata(**(default | known | {"thing_colors": len(colors) * _CLASS_COLORS}))


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
    """Which objects of one model the other one does not find, with the same class: (N,), bool."""
    own, others = _instances(output), _instances(other)
    if own is None or not len(own) or not own.has("pred_boxes"):
        return torch.zeros(0 if own is None else len(own), dtype=torch.bool)
    same = own.pred_classes[:, None] == others.pred_classes[None]
    overlaps = pairwise_iou(own.pred_boxes, others.pred_boxes) * same
    return ~(overlaps > _SAME_BOX).any(1)


def _draw(picture, output, marked, metadata):
    visualizer = _Visualizer(picture, metadata, _WIDTH / picture.shape[1], ColorMode.SEGMENTATION)
    found = _instances(output)
    if "panoptic_seg" in output:
        visualizer.draw_panoptic_seg_predictions(*output["panoptic_seg"])
    elif found is not None:
        # First, so that they do not hide what both models find.
        visualizer.draw_parts(found[marked])
        visualizer.draw_instance_predictions(found[~marked])
    elif "sem_seg" in output:
        visualizer.draw_sem_seg(output["sem_seg"].argmax(0))
    else:
        return None
    if marked.any():
        visualizer.draw_marks(found[marked])
    return visualizer.output.get_image()


def _address(picture):
    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, "JPEG", quality=80)
    return f"data:image/jpeg;base64,{base64.b64encode(buffer.getvalue()).decode()}"


def _words(outputs, alone):
    if "instances" in outputs[0]:
        dense, pruned = (len(_instances(output)) for output in outputs)
        lost, new = (int(marked.sum()) for marked in alone)
        return (
            f"{dense} objects above a score of {_MIN_SCORE} on the left, {pruned} on the right; "
            f"{lost} of the first are lost, {new} of the second are new"
        )
    if "sem_seg" in outputs[0]:
        dense, pruned = (output["sem_seg"].argmax(0) for output in outputs)
        return f"{(dense == pruned).float().mean():.1%} of the pixels have the same class"
    return ""
