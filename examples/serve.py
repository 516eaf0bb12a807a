"""An exported model behind HTTP, in onnxruntime: no training code, no checkpoint.

::

    pip install fastapi uvicorn python-multipart
    MODEL=model.onnx uvicorn serve:app
    curl -F picture=@photo.jpg http://127.0.0.1:8000/instances     # JSON, masks in COCO's RLE
    curl -F picture=@photo.jpg http://127.0.0.1:8000/drawing > drawing.png
"""

import io
import os
import threading

import numpy as np
from detectron2.utils.visualizer import Visualizer
from fastapi import FastAPI, HTTPException, Response, UploadFile
from PIL import Image, ImageOps
from pycocotools import mask as mask_utils

import blendprune.runtime

MIN_SCORE = float(os.environ.get("MIN_SCORE", 0.5))
app = FastAPI()
detector = blendprune.runtime.load(os.environ["MODEL"])
# A detector works for one thread at a time, FastAPI calls from many.
lock = threading.Lock()


@app.post("/instances")
def instances(picture: UploadFile):
    """Class, score, box (x0, y0, x1, y1 in pixels), and mask of each object."""
    found = detect(opened(picture))
    keys = ("class", "score", "box", "mask")
    boxes = found.pred_boxes.tensor.tolist()
    columns = (found.pred_classes.tolist(), found.scores.tolist(), boxes, masks_of(found))
    return [dict(zip(keys, row)) for row in zip(*columns)]


@app.post("/drawing")
def drawing(picture: UploadFile):
    """The picture with its objects, as PNG."""
    image, file = opened(picture), io.BytesIO()
    drawn = Visualizer(np.asarray(image)).draw_instance_predictions(detect(image))
    Image.fromarray(drawn.get_image()).save(file, "PNG")
    return Response(file.getvalue(), media_type="image/png")


def opened(upload):
    try:
        return ImageOps.exif_transpose(Image.open(upload.file)).convert("RGB")
    except (OSError, Image.DecompressionBombError):
        raise HTTPException(415, "this is no picture that Pillow reads: send PNG or JPEG") from None


def detect(image):
    with lock:
        [result] = detector([detector.inputs_of(image)])
    return result["instances"][result["instances"].scores >= MIN_SCORE]


def masks_of(found):
    if not found.has("pred_masks"):
        return [None] * len(found)
    codes = mask_utils.encode(np.asfortranarray(found.pred_masks.numpy().transpose(1, 2, 0)))
    return [{"size": code["size"], "counts": code["counts"].decode()} for code in codes]
