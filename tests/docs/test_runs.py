"""Code of the documents, run: the quick start from its first command to its last, and others."""

import re
import sys

import pytest
import torch
from torch import nn

import blendprune
from blendprune.__main__ import main
from blendprune.pruning import IMPORTANCES
from tests.docs.pages import ROOT, blocks, commands
from tests.helpers.chain import Chain, chain_inputs

# A reader's script: detectron2's usual one, with COCO's evaluation.
SCRIPT = """
from detectron2.checkpoint import DetectionCheckpointer
from detectron2.config import get_cfg
from detectron2.engine import DefaultTrainer, default_argument_parser, default_setup
from detectron2.evaluation import COCOEvaluator

class Trainer(DefaultTrainer):
    @classmethod
    def build_evaluator(cls, cfg, name, folder=None):
        return COCOEvaluator(name, output_dir=cfg.OUTPUT_DIR)

args = default_argument_parser().parse_args()
cfg = get_cfg()
cfg.merge_from_file(args.config_file)
cfg.merge_from_list(args.opts)
default_setup(cfg, args)
if args.eval_only:
    model = Trainer.build_model(cfg)
    DetectionCheckpointer(model).load(cfg.MODEL.WEIGHTS)
    Trainer.test(cfg, model)
else:
    trainer = Trainer(cfg)
    trainer.resume_or_load(resume=args.resume)
    trainer.train()
"""
SMALL = [
    *("MODEL.DEVICE", "cpu", "MODEL.WEIGHTS", "", "MODEL.RESNETS.DEPTH", 18),
    *("MODEL.RESNETS.RES2_OUT_CHANNELS", 64, "MODEL.RESNETS.NORM", "BN", "OUTPUT_DIR", "."),
    *("MODEL.BACKBONE.FREEZE_AT", 0, "MODEL.FPN.OUT_CHANNELS", 32, "MODEL.RETINANET.NUM_CONVS", 1),
    *("INPUT.MIN_SIZE_TRAIN", (128,), "INPUT.MIN_SIZE_TEST", 128, "DATALOADER.NUM_WORKERS", 0),
    *("SOLVER.IMS_PER_BATCH", 2, "SOLVER.MAX_ITER", 4, "SOLVER.STEPS", (), "SOLVER.BASE_LR", 1e-5),
    *("PRUNER.CALIBRATION_IMAGES", 4, "PRUNER.ROUNDS", 1, "PRUNER.FINETUNE_SCHEDULE", 1.0),
]
# A demo of few channels and iterations; no page needs a good model.
QUICK = [
    *("SOLVER.MAX_ITER", 4, "SOLVER.IMS_PER_BATCH", 2, "SOLVER.WARMUP_ITERS", 1),
    *("MODEL.FPN.OUT_CHANNELS", 32, "INPUT.MIN_SIZE_TRAIN", (64,), "INPUT.MIN_SIZE_TEST", 64),
    *("PRUNER.CALIBRATION_IMAGES", 4, "PRUNER.ROUNDS", 1, "PRUNER.FINETUNE_SCHEDULE", 1.0),
]
RUN = "import runpy, sys; del sys.argv[0]; runpy.run_path(sys.argv[0], run_name='__main__')"
COMMAND = "import sys; from blendprune.__main__ import main; sys.exit(main())"


def _blocks(page, language):
    return [block for block in blocks(language) if block.page == page]


@pytest.fixture
def reader(fresh_python, tmp_path, monkeypatch):
    """A function that runs code in a folder with a script, a config, a checkpoint and data."""
    from detectron2 import model_zoo

    from blendprune.data.digits import write_digits

    write_digits(tmp_path / "datasets", num_train=4, num_test=2, layout="coco")
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path / "datasets"))
    with blendprune.applied():
        cfg = model_zoo.get_config("COCO-Detection/retinanet_R_50_FPN_1x.yaml")
        cfg.merge_from_list(SMALL)
    (tmp_path / "C.yaml").write_text(cfg.dump())
    (tmp_path / "train_net.py").write_text(SCRIPT)

    def run(code, *args):
        return fresh_python(code, *args, cwd=tmp_path)

    run(COMMAND, "run", "train_net.py", "--config-file", "C.yaml")
    return run


@pytest.mark.slow
def test_the_quick_start_runs_from_its_first_command_to_its_last(reader, tmp_path):
    typed = [
        words
        for block in _blocks("docs/quick-start.md", "sh")
        for words in commands(block)
        if words[0] == "blendprune"
    ]
    said = {" ".join(words[1:3]): reader(COMMAND, *words[1:]).stdout for words in typed}
    assert len(typed) == 7
    assert "RetinaNet" in said["info pruned/finetune/model_final.pth"]
    for name in ("report.html", "report.json", "model_pruned.pth", "config.yaml"):
        assert (tmp_path / "pruned" / name).exists()
    assert (tmp_path / "model.onnx").stat().st_size > 100_000
    [block] = _blocks("docs/quick-start.md", "python")
    reader(f"{block.text}\nassert not any('norm' in n for n, _ in fast.named_parameters())")


@pytest.mark.slow
def test_the_way_on_from_the_demo_runs_from_its_first_command_to_its_last(fresh_python, tmp_path):
    from blendprune.data.digits import write_digits
    from blendprune.demo.data import SCENES
    from blendprune.demo.story import CONFIG

    write_digits(tmp_path / SCENES, num_train=8, num_test=2, image_size=64)
    (tmp_path / "examples").symlink_to(ROOT / "examples")
    dense = ["--config-file", CONFIG, *QUICK, "OUTPUT_DIR", "output/demo/dense"]
    fresh_python(COMMAND, "run", "-m", "blendprune.demo.train_net", *dense, cwd=tmp_path)

    _, *typed = [words for block in _blocks("docs/demo.md", "sh") for words in commands(block)]
    for words in typed[:-1]:
        assert words[0] == "blendprune"
        fresh_python(COMMAND, *words[1:], cwd=tmp_path)
    assert typed[-1][0] == "python"
    fresh_python(RUN, *typed[-1][1:], cwd=tmp_path)
    for name in ("quarter.html", "quarter.onnx", "quarter.png"):
        assert (tmp_path / "output/demo" / name).stat().st_size > 1000


def test_the_plan_is_printed_as_the_page_shows_it(capsys):
    [block] = [block for block in _blocks("docs/planning.md", "") if "$ " in block.text]
    [words] = commands(block)
    with blendprune.applied():
        assert main(words[1:]) == 0
    printed = {" ".join(line.split()) for line in capsys.readouterr().out.splitlines()}
    # Steps of widths are those of the machine.
    shown = [
        line for line in block.text.splitlines()[1:] if not re.search("…$|---| by |^wid", line)
    ]
    assert [line for line in shown if " ".join(line.split()) not in printed] == []
    assert len(shown) > 8


@pytest.fixture
def reader_norm():
    """The score of ``docs/extending.md``, registered for one test."""
    block = next(b for b in _blocks("docs/extending.md", "python") if "reader_norm" in b.text)
    exec(compile(block.text, str(block), "exec"), {})
    yield "reader_norm"
    IMPORTANCES._obj_map.pop("reader_norm")


def test_a_score_that_the_page_registers_removes_what_is_read_least(reader_norm):
    model = Chain(8, 8)
    with torch.no_grad():
        model.second.weight[:, ::2] *= 0.01
        kept = model.first.weight[1::2].clone()
    report = blendprune.prune(
        model, chain_inputs(), pruning_ratio=0.5, importance=reader_norm, rounds=1,
        global_pruning=False, round_to=1,
    )  # fmt: skip
    assert model.first.out_channels == 4 and report is not None
    torch.testing.assert_close(model.first.weight, kept, rtol=0, atol=0)


@pytest.fixture
def own_patch():
    """The patch of ``docs/extending.md``."""
    block = next(b for b in _blocks("docs/extending.md", "python") if "PATCHES" in b.text)
    names = {}
    exec(compile(block.text, str(block), "exec"), names)
    [patch] = names["PATCHES"]
    yield patch
    patch.revert()


def test_a_patch_as_the_page_shows_it_applies_reverts_and_names_its_digest(own_patch, capsys):
    import detectron2.solver.build
    from detectron2.config import get_cfg

    from blendprune.errors import UpstreamDrift

    module = sys.modules["detectron2.solver.build"]
    before = module.build_optimizer
    with pytest.raises(UpstreamDrift, match="found [0-9a-f]{16}"):
        own_patch.check(module, "raise")
    own_patch.apply(module)
    detectron2.solver.build.build_optimizer(get_cfg(), nn.Linear(2, 2))
    assert capsys.readouterr().out.strip().isdigit()
    own_patch.revert()
    assert module.build_optimizer is before
