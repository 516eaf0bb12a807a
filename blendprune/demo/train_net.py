"""The training script of the demo's models: detectron2's usual one, with the demo's trainer.

::

    blendprune run -m blendprune.demo.train_net --config-file output/demo/pruned/config.yaml
"""

from detectron2.checkpoint import DetectionCheckpointer
from detectron2.config import get_cfg
from detectron2.engine import default_argument_parser, default_setup, launch
from detectron2.utils import comm
from detectron2.utils.logger import setup_logger

from .. import apply, modeling
from .data import register
from .trainer import DigitTrainer


def main(args):
    """Train, or evaluate with ``--eval-only``.

    Args:
        args (Namespace): of detectron2's ``default_argument_parser``.

    Returns:
        dict: task ("segm", "bbox") to the metrics of COCOEvaluator.

    Raises:
        ConfigError: the demo has not run in the working directory.
    """
    apply()
    modeling.register()
    register()
    cfg = get_cfg()
    cfg.merge_from_file(args.config_file)
    cfg.merge_from_list(args.opts)
    cfg.freeze()
    default_setup(cfg, args)
    # The trainer's line of progress; default_setup knows upstream's loggers alone.
    setup_logger(cfg.OUTPUT_DIR, comm.get_rank(), name="blendprune")
    if args.eval_only:
        model = DigitTrainer.build_model(cfg)
        DetectionCheckpointer(model).load(cfg.MODEL.WEIGHTS)
        return DigitTrainer.test(cfg, model)
    trainer = DigitTrainer(cfg)
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
