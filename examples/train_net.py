"""Train, evaluate and fine-tune: the usual detectron2 script plus two lines for blendprune.

::

    python train_net.py --config-file configs/blendmask_R_18.yaml                    # dense
    blendprune prune --config-file configs/blendmask_R_18.yaml --max-flops 0.5 \
        --output output/pruned MODEL.WEIGHTS output/model_final.pth
    python train_net.py --config-file output/pruned/config.yaml                      # fine-tune
"""

import os

import own_backbone  # noqa: F401  (registers it)
import own_data  # noqa: F401  (registers the data of $OWN_DATA)
from detectron2.checkpoint import DetectionCheckpointer
from detectron2.data import build_detection_train_loader
from detectron2.engine import DefaultTrainer, default_argument_parser, default_setup, launch
from detectron2.evaluation import COCOEvaluator, verify_results

import blendprune  # <- the first of the two lines
from blendprune.data.calibration import training_mapper

try:
    from adet.config import get_cfg
except ImportError:
    from detectron2.config import get_cfg

blendprune.apply()  # <- the second; works before and after upstream is imported


class Trainer(DefaultTrainer):
    """detectron2's trainer, with the labels of BlendMask's bases and COCO's evaluation."""

    @classmethod
    def build_train_loader(cls, cfg):
        return build_detection_train_loader(cfg, mapper=training_mapper(cfg))

    @classmethod
    def build_evaluator(cls, cfg, dataset_name, output_folder=None):
        folder = output_folder or os.path.join(cfg.OUTPUT_DIR, "inference")
        return COCOEvaluator(dataset_name, output_dir=folder)


def setup(args):
    cfg = get_cfg()
    cfg.merge_from_file(args.config_file)
    cfg.merge_from_list(args.opts)
    cfg.freeze()
    default_setup(cfg, args)
    return cfg


def main(args):
    cfg = setup(args)
    if args.eval_only:
        model = Trainer.build_model(cfg)
        checkpointer = DetectionCheckpointer(model, save_dir=cfg.OUTPUT_DIR)
        checkpointer.resume_or_load(cfg.MODEL.WEIGHTS, resume=args.resume)
        results = Trainer.test(cfg, model)
        verify_results(cfg, results)
        return results
    trainer = Trainer(cfg)
    trainer.resume_or_load(resume=args.resume)
    return trainer.train()


if __name__ == "__main__":
    args = default_argument_parser().parse_args()
    launch(
        main,
        args.num_gpus,
        num_machines=args.num_machines,
        machine_rank=args.machine_rank,
        dist_url=args.dist_url,
        args=(args,),
    )
