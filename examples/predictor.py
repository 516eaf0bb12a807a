"""A pruned model behind detectron2's DefaultPredictor.

::

    python predictor.py output/pruned/finetune/config.yaml photo.jpg \
        MODEL.WEIGHTS output/pruned/finetune/model_final.pth
"""

import argparse

from detectron2.config import get_cfg
from detectron2.data.detection_utils import read_image
from detectron2.engine import DefaultPredictor

import blendprune

blendprune.apply()  # MODEL.FINETUNE True in the config: the model takes its widths from the file


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("config", help="config.yaml, from `blendprune prune` or the fine-tuning")
    parser.add_argument("picture")
    parser.add_argument("opts", nargs=argparse.REMAINDER, metavar="KEY VALUE")
    args = parser.parse_args()
    cfg = get_cfg()
    cfg.merge_from_file(args.config)
    cfg.merge_from_list(args.opts)
    predictor = DefaultPredictor(cfg)
    found = predictor(read_image(args.picture, "BGR"))["instances"]
    for label, score, box in zip(found.pred_classes, found.scores, found.pred_boxes):
        print(int(label), f"{score:.3f}", [round(float(x), 1) for x in box])
    print(f"{len(found)} objects")


if __name__ == "__main__":
    main()
