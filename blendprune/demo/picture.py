"""A picture of detections: one row per model, one column per image."""

import numpy as np
from detectron2.structures import Boxes, Instances
from detectron2.utils.visualizer import ColorMode, Visualizer
from PIL import Image, ImageDraw

_SCALE = 2
_MARGIN = 4
_CAPTION = 18


def detections_picture(path, images, rows, metadata, min_score=0.5):
    """Draw detections and write them as a PNG file.

    Args:
        path (str): the file to write.
        images (list[Tensor]): uint8 RGB, each (3, H, W), all of one size.
        rows (dict[str, list[dict[str, Tensor]]]): caption to the result of
            `blendprune.demo.reload.detections` for the images.
        metadata (Metadata): with the class names.
        min_score (float): lowest score to draw.
    """
    height, width = (_SCALE * side for side in images[0].shape[1:])
    sheet = Image.new(
        "RGB",
        (
            len(images) * (width + _MARGIN) + _MARGIN,
            len(rows) * (height + _MARGIN + _CAPTION) + _MARGIN,
        ),
        "white",
    )
    pen = ImageDraw.Draw(sheet)
    top = _MARGIN
    for caption, found in rows.items():
        pen.text((_MARGIN, top), caption, fill="black")
        top += _CAPTION
        for column, (image, fields) in enumerate(zip(images, found, strict=True)):
            drawn = _draw(image, fields, metadata, min_score)
            sheet.paste(drawn, (_MARGIN + column * (width + _MARGIN), top))
        top += height + _MARGIN
    sheet.save(path)


def _draw(image, fields, metadata, min_score):
    picture = np.ascontiguousarray(image.permute(1, 2, 0).numpy())
    keep = fields["scores"] >= min_score
    instances = Instances(picture.shape[:2])
    instances.pred_boxes = Boxes(fields["boxes"][keep])
    instances.scores = fields["scores"][keep]
    instances.pred_classes = fields["classes"][keep]
    if "masks" in fields:
        instances.pred_masks = fields["masks"][keep]
    visualizer = Visualizer(picture, metadata, _SCALE, ColorMode.IMAGE)
    drawn = visualizer.draw_instance_predictions(instances).get_image()
    height, width = (_SCALE * side for side in picture.shape[:2])
    return Image.fromarray(drawn).resize((width, height))
