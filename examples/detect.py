"""Run an exported file on a picture, and draw what it finds.

::

    python detect.py model.onnx photo.jpg --engine openvino --names cat dog bird

An exported file has numbers of classes, no names: give them in the order of the training.
"""

import argparse

import numpy as np
from detectron2.data.catalog import Metadata
from detectron2.utils.visualizer import Visualizer
from PIL import Image, ImageOps

import blendprune.runtime


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", help="written by `blendprune export`")
    parser.add_argument("picture")
    parser.add_argument("--output", default="detections.png")
    parser.add_argument("--engine", default="onnxruntime")
    parser.add_argument("--min-score", type=float, default=0.5)
    parser.add_argument("--names", nargs="+", metavar="NAME", help="of the classes, in order")
    args = parser.parse_args()

    detector = blendprune.runtime.load(args.model, engine=args.engine)
    picture = ImageOps.exif_transpose(Image.open(args.picture))
    [result] = detector([detector.inputs_of(picture)])
    found = result["instances"]
    found = found[found.scores >= args.min_score]

    drawing = Visualizer(np.asarray(picture.convert("RGB")), Metadata(thing_classes=args.names))
    Image.fromarray(drawing.draw_instance_predictions(found).get_image()).save(args.output)
    print(f"{args.output}: {len(found)} objects")


if __name__ == "__main__":
    main()
