"""Random requests over small models of every family: whatever is asked, the result must hold.

::

    python -m pytest tests/pruning/test_random_structures.py                        # a few draws
    RANDOM_STRUCTURES=500 python -m pytest tests/pruning/test_random_structures.py  # many

Each draw is one test, named after its seed, and the same in every run.
"""

import os
import random

import pytest
import torch
from torch import nn

import blendprune
from blendprune.errors import PruningError, TargetUnreachable
from blendprune.pruning import plan, prune
from blendprune.pruning.tracing.view import is_prunable_layer
from tests.helpers import small_transformers
from tests.helpers.blendmask_options import FROZEN, PANOPTIC, R50, SHARED, WIDE
from tests.helpers.small_zoo import config_of
from tests.zoo import (
    assert_same,
    build_dense,
    few_regions,
    load_again,
    settle_norms,
    train_one_step,
    training_batch,
)

DRAWS = int(os.environ.get("RANDOM_STRUCTURES", "8"))
SIZE = 64

BLENDMASKS = {
    "blendmask": WIDE,
    "blendmask-frozen": (*WIDE, *FROZEN),
    "blendmask-panoptic": (*PANOPTIC, "MODEL.FCOS.NORM", "BN"),
    "blendmask-r50-shared": (*R50, *SHARED, "MODEL.FCOS.NORM", "BN"),
}
DEPTHWISE = ("MODEL.RESNETS.NUM_GROUPS", 16, "MODEL.RESNETS.WIDTH_PER_GROUP", 1)
ZOO = {
    "retinanet": (),
    "mask-fpn": (),
    "mask-c4": (),
    "resnext": (),
    "depthwise": DEPTHWISE,
    "group-norm": (),
    "panoptic": (),
    "semantic": (),
    "keypoint": (),
    "cascade": (),
    "deformable": (),
    "box-fpn-r18": (),
}
TRANSFORMERS = list(small_transformers.FAMILIES)
FAMILIES = [*BLENDMASKS, *ZOO, *TRANSFORMERS]


def draw_request(rng, model):
    """Arguments of prune(), any of which may be refused only as out of reach."""
    layers = [name for name, m in model.named_modules() if is_prunable_layer(m)]

    def pattern():
        parts = rng.choice(layers).split(".")
        return ".".join("*" if rng.random() < 0.3 else part for part in parts)

    asked = {
        rng.choice(["pruning_ratio", "max_flops", "max_params", "max_activations"]): rng.uniform(
            0.2, 0.8
        ),
        "importance": rng.choice(["magnitude", "random"]),
        "rounds": rng.choice([1, 1, 2, 3]),
        "round_to": rng.choice([None, None, 2, 8, 12]),
        "max_pruning_ratio": rng.choice([0.9, 0.9, 0.81, 0.97]),
        "ignored_layers": [pattern() for _ in range(rng.choice([0, 0, 1, 2]))],
        **rng.choice([{}, {"global_pruning": False}, {"isomorphic": True}]),
    }
    if rng.random() < 0.5:
        count = rng.choice([1, 2])
        ratios = [rng.choice([0, 0.25, rng.uniform(0, 0.8)]) for _ in range(count)]
        asked["pruning_ratio_dict"] = [(pattern(), ratio) for ratio in ratios]
    return asked


@pytest.mark.parametrize("seed", range(DRAWS))
def test_a_random_request_holds(registered, blendmask_cfg, tmp_path, seed):
    rng = random.Random(seed)
    family = FAMILIES[seed % len(FAMILIES)] if DRAWS >= len(FAMILIES) else rng.choice(FAMILIES)
    if family in BLENDMASKS:
        cfg = blendmask_cfg(*BLENDMASKS[family])
    elif family in TRANSFORMERS:
        cfg = small_transformers.config_of(family)
    else:
        cfg = config_of("resnext" if family == "depthwise" else family, *ZOO[family])
    model = build_dense(cfg, SIZE)
    batch = training_batch(cfg, SIZE)
    images = [{k: batch[0][k] for k in ("image", "height", "width")}]
    settle_norms(model, images)

    asked = draw_request(rng, model)
    limits = ("round_to", "max_pruning_ratio", "ignored_layers", "pruning_ratio_dict")
    before = None
    try:
        before = plan(model, images, **{key: asked[key] for key in limits if key in asked})
        report = prune(model, images, **asked)
    except TargetUnreachable:
        # What the plan promises is not refused, but for steps that are too wide.
        assert_unreachable(before, asked)
        return
    except PruningError as error:
        assert "no group of channels" in str(error)
        assert all(group.stays for group in before.groups)
        return
    except blendprune.errors.ConfigError as error:
        # Drawn patterns may name prediction layers alone, and a ratio may pass its limit.
        assert "can lose channels" in str(error) or "raise the latter" in str(error)
        return
    assert_widths(before, report, asked)
    assert_runs_trains_and_reloads(model, cfg, batch, images, tmp_path)


def assert_unreachable(before, asked):
    [kind] = [key for key in asked if key.startswith("max_") and key != "max_pruning_ratio"]
    values = getattr(before, kind.removeprefix("max_"))
    steps = any(group.step > 1 for group in before.groups) or "pruning_ratio_dict" in asked
    assert values["least"] / values["now"] > asked[kind] or steps


def assert_widths(before, report, asked):
    """Each group has one of the widths that the plan allows; what stays has stayed."""
    lost = 0
    for group in before.groups:
        made = [m for m in group.members if m.role == "out" and m.layer in report.layers]
        widths = {report.layers[m.layer]["after"] for m in made if m.per_channel == 1}
        assert len(widths) <= 1, (group.root, widths)
        width = report.layers[group.root]["after"]
        lost += group.width - width
        if group.stays:
            assert width == group.width, group.root
        elif group.ratio is not None:
            assert width == group.least, group.root
            assert width >= (1 - group.ratio) * group.width - 1e-6
        else:
            allowed = {group.width, *range(group.least, group.most + 1, group.step)}
            assert width in allowed, (group.root, width)
            assert width >= (1 - asked["max_pruning_ratio"]) * group.width - 1e-6
            assert width == group.width or width % (asked["round_to"] or 1) == 0
    for kind in ("flops", "params", "activations"):
        if f"max_{kind}" in asked:
            sizes = getattr(report, kind)
            kept = sizes["after"] / sizes["before"]
            assert 0.98 * asked[f"max_{kind}"] <= kept <= asked[f"max_{kind}"] * (1 + 1e-6)
    if "pruning_ratio" in asked and not asked.get("pruning_ratio_dict"):
        # The ratio is of all that is no prediction, what steps or limits keep whole included.
        blocked = "no smaller width is allowed"
        free = sum(g.width for g in before.groups if not g.stays or g.stays.startswith(blocked))
        assert lost <= asked["pruning_ratio"] * free + 1e-6


def assert_runs_trains_and_reloads(model, cfg, batch, images, folder):
    for module in model.modules():
        if isinstance(module, nn.GroupNorm):
            assert module.num_channels % module.num_groups == 0
    few_regions(model)
    with torch.no_grad():
        model(images)
    train_one_step(model, batch)
    path = str(folder / "model_pruned.pth")
    torch.save({"model": model.state_dict(), "struct": blendprune.structure_of(model)}, path)
    assert_same(model, load_again(path, cfg, SIZE), images)
