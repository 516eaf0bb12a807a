"""Prune with your own Torch-Pruning script and save a checkpoint for MODEL.FINETUNE.

::

    python prune_by_hand.py --config-file configs/blendmask_R_18.yaml --output output/by_hand \
        MODEL.WEIGHTS output/model_final.pth
    python train_net.py --config-file configs/blendmask_R_18.yaml \
        MODEL.FINETUNE True MODEL.WEIGHTS output/by_hand/model_pruned.pth
"""

import argparse
import os

import torch_pruning as tp
from detectron2.checkpoint import DetectionCheckpointer
from detectron2.modeling import build_model

import blendprune
from blendprune.pruning import config_inputs

try:
    from adet.config import get_cfg
except ImportError:
    from detectron2.config import get_cfg

blendprune.apply()


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--config-file", required=True)
    parser.add_argument("--pruning-ratio", type=float, default=0.3)
    parser.add_argument("--output", default="output/by_hand")
    parser.add_argument("opts", nargs=argparse.REMAINDER)
    args = parser.parse_args()

    cfg = get_cfg()
    cfg.merge_from_file(args.config_file)
    cfg.merge_from_list(args.opts)
    cfg.MODEL.PRUNE = True  # forward returns the raw head outputs, for tracing a graph

    model = build_model(cfg).eval()
    DetectionCheckpointer(model).load(cfg.MODEL.WEIGHTS)
    inputs = (config_inputs(model),)  # one image of the config's size

    head = model.proposal_generator.fcos_head
    predictions = [head.cls_logits, head.bbox_pred, head.ctrness, model.top_layer]
    predictions.append(model.basis_module.tower[-1])
    if hasattr(model.basis_module, "seg_head"):
        predictions.append(model.basis_module.seg_head[-1])

    with blendprune.prunable(model):
        pruner = tp.pruner.MagnitudePruner(
            model,
            inputs,
            importance=tp.importance.MagnitudeImportance(p=2),
            pruning_ratio=args.pruning_ratio,
            ignored_layers=predictions,
        )
        pruner.step()

    os.makedirs(args.output, exist_ok=True)
    DetectionCheckpointer(model, args.output).save("model_pruned")


if __name__ == "__main__":
    main()
