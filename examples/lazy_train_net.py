"""Train, prune and fine-tune the model of a LazyConfig.

::

    python lazy_train_net.py train --config-file configs/own_vitdet.py train.output_dir=out/dense
    python lazy_train_net.py prune --config-file configs/own_vitdet.py \
        train.init_checkpoint=out/dense/model_final.pth train.output_dir=out/pruned
    python lazy_train_net.py finetune --config-file configs/own_vitdet.py optimizer.lr=5e-5 \
        train.init_checkpoint=out/pruned/model_pruned.pth train.output_dir=out/finetune
"""

import argparse
import itertools
import os

from detectron2.checkpoint import DetectionCheckpointer
from detectron2.config import LazyConfig, instantiate
from detectron2.engine import SimpleTrainer, default_writers, hooks
from detectron2.evaluation import inference_on_dataset
from detectron2.utils.logger import setup_logger

import blendprune
from blendprune.checkpoint import read_struct
from blendprune.pruning import pruning_table

blendprune.apply()  # checkpoints carry the model's widths


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("stage", choices=["train", "prune", "finetune"])
    parser.add_argument("--config-file", required=True)
    parser.add_argument("--max-flops", type=float, default=0.5, help="fraction that prune keeps")
    parser.add_argument("--batches", type=int, default=8, help="of images, that prune reads")
    parser.add_argument("opts", nargs="*", metavar="KEY=VALUE")
    args = parser.parse_intermixed_args()
    cfg = LazyConfig.apply_overrides(LazyConfig.load(args.config_file), args.opts)
    setup_logger()
    os.makedirs(cfg.train.output_dir, exist_ok=True)

    model = instantiate(cfg.model).to(cfg.train.device)
    if args.stage == "finetune":
        blendprune.restructure(model, read_struct(cfg.train.init_checkpoint))
    # The optimizer comes after the widths.
    cfg.optimizer.params.model = model
    loader = instantiate(cfg.dataloader.train)
    trainer = SimpleTrainer(model, loader, instantiate(cfg.optimizer))
    checkpointer = DetectionCheckpointer(model, cfg.train.output_dir, trainer=trainer)
    DetectionCheckpointer(model).load(cfg.train.init_checkpoint)

    if args.stage == "prune":
        batches = list(itertools.islice(loader, args.batches))
        report = blendprune.prune(model, max_flops=args.max_flops, data=batches)
        print(pruning_table(report))
        DetectionCheckpointer(model, cfg.train.output_dir).save("model_pruned")
        return
    writers = default_writers(cfg.train.output_dir, cfg.train.max_iter)
    trainer.register_hooks(
        [
            hooks.PeriodicCheckpointer(checkpointer, **cfg.train.checkpointer),
            hooks.EvalHook(cfg.train.eval_period, lambda: evaluate(cfg, model)),
            hooks.PeriodicWriter(writers, period=cfg.train.log_period),
        ]
    )
    trainer.train(0, cfg.train.max_iter)


def evaluate(cfg, model):
    evaluator = instantiate(cfg.dataloader.evaluator)
    return inference_on_dataset(model, instantiate(cfg.dataloader.test), evaluator)


if __name__ == "__main__":
    main()
