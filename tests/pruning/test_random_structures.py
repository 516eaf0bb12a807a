"""Random requests over small models of every family: whatever is asked, the result must hold.

::

    python -m pytest tests/pruning/test_random_structures.py                        # a few draws
    RANDOM_STRUCTURES=500 python -m pytest tests/pruning/test_random_structures.py  # many

Each draw is one test, named after its seed, and the same in every run. Each ends with a pruned
model: a request that is refused has to be refused for a reason that is true, and another is drawn.
"""

import os
import random
import re

import pytest
import torch
from torch import nn

import blendprune
from blendprune.errors import ConfigError, PruningError, TargetUnreachable
from blendprune.pruning import plan, prune
from blendprune.pruning.graph.layer_patterns import resolve_layers
from blendprune.pruning.search.search import TOLERANCE
from blendprune.pruning.tracing.layer_kinds import is_prunable_layer
from tests.helpers import small_transformers
from tests.helpers.blendmask_options import FROZEN, PANOPTIC, R50, SHARED, WIDE
from tests.helpers.small_zoo import config_of
from tests.helpers.state import remember, unchanged
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
# Of each draw: some requests are out of reach, most are not.
MOST_REFUSALS = 3
LIMITS = ("round_to", "max_pruning_ratio", "ignored_layers", "pruning_ratio_dict")

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


# Target → where plans and reports have its cost.
COSTS = {
    "max_flops": "flops",
    "max_params": "params",
    "max_activations": "activations",
    "max_memory": "memory_mb",
}


def draw_request(rng, model, family):
    """Arguments of prune()."""
    layers = [name for name, m in model.named_modules() if is_prunable_layer(m)]

    def pattern():
        parts = rng.choice(layers).split(".")
        return ".".join("*" if rng.random() < 0.3 else part for part in parts)

    kind = rng.choice(["pruning_ratio", *COSTS])
    # Whole heads of attention and a stream that stays leave transformers most of their cost.
    large = family in TRANSFORMERS and kind != "pruning_ratio"
    low, high = (0.7, 0.95) if large else (0.2, 0.8)
    if kind == "max_memory":
        # Predictions make up most of the peaks of models as small as these.
        low, high = 0.9, 0.99
    asked = {
        kind: rng.uniform(low, high),
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


@pytest.mark.parametrize(
    "seed",
    # Whoever asks for a number gets all of them.
    [
        pytest.param(n, marks=[pytest.mark.slow] if n > 0 and DRAWS == 8 else [])
        for n in range(DRAWS)
    ],
)
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

    for _ in range(MOST_REFUSALS + 1):
        asked = draw_request(rng, model, family)
        state = remember(model)
        found = plan_and_prune(model, images, asked)
        if found is not None:
            break
        assert unchanged(model, state)
    else:
        pytest.fail(f"{MOST_REFUSALS + 1} requests in a row were refused")
    assert_widths(*found, asked)
    assert_runs_trains_and_reloads(model, cfg, batch, images, tmp_path)


def plan_and_prune(model, images, asked):
    """The plan and the report, or None if the request is refused for a reason that is true."""
    limits = {key: asked[key] for key in LIMITS if key in asked}
    try:
        before = plan(model, images, **limits)
    except ConfigError as error:
        assert_cannot_hold(model, images, limits, asked, str(error))
        return None
    try:
        return before, prune(model, images, **asked)
    except TargetUnreachable as error:
        assert_unreachable(before, asked, error)
    except PruningError as error:
        assert "no group of channels" in str(error)
        assert all(group.frozen_reason for group in before.groups)
    except ConfigError as error:
        assert_cannot_hold(model, images, limits, asked, str(error))
    return None


def assert_cannot_hold(model, images, limits, asked, sentence):
    """A drawn pattern may name prediction layers alone, and a ratio may pass its limit."""
    ratios = limits.pop("pruning_ratio_dict", [])
    if "raise the latter" in sentence:
        highest = max([asked.get("pruning_ratio", 0), *(ratio for _, ratio in ratios)])
        assert highest > asked["max_pruning_ratio"]
        return
    entry, ratio = re.match(
        r"pruning_ratio_dict has '(.+)': (\S+), but no layer", sentence
    ).groups()
    assert float(ratio) > 0
    named = resolve_layers(model, [entry])
    names = {name for name, module in model.named_modules() if module in named}
    for group in plan(model, images, **limits).groups:
        if any(member.role == "out" and member.layer in names for member in group.members):
            assert group.frozen_reason, (entry, group.root)


def assert_unreachable(before, asked, error):
    """What the plan promises is not refused, but for steps that are too wide."""
    [kind] = [key for key in asked if key.startswith("max_") and key != "max_pruning_ratio"]
    target, values = asked[kind], getattr(before, COSTS[kind])
    if "is out of reach" in str(error):
        assert error.reachable > target
        assert values["min"] / values["now"] > 0.999 * target
        return
    # Steps or ratios of single layers take the model past what the tolerance allows.
    assert error.reachable < (1 - TOLERANCE) * target
    if "pruning_ratio_dict alone" in str(error):
        assert any(group.ratio is not None for group in before.groups)
    else:
        assert "the nearest widths" in str(error)
        assert any(group.step > 1 for group in before.groups)


def assert_widths(before, report, asked):
    """Each group has one of the widths that the plan allows; what stays has stayed."""
    lost = 0
    for group in before.groups:
        made = [m for m in group.members if m.role == "out" and m.layer in report.layers]
        widths = {report.layers[m.layer]["after"] for m in made if m.per_channel == 1}
        assert len(widths) <= 1, (group.root, widths)
        width = report.layers[group.root]["after"]
        lost += group.width - width
        if group.frozen_reason:
            assert width == group.width, group.root
        elif group.ratio is not None:
            assert width == group.min_width, group.root
            assert width >= (1 - group.ratio) * group.width - 1e-6
        else:
            allowed = {group.width, *range(group.min_width, group.max_width + 1, group.step)}
            assert width in allowed, (group.root, width)
            assert width >= (1 - asked["max_pruning_ratio"]) * group.width - 1e-6
            assert width == group.width or width % (asked["round_to"] or 1) == 0
    for kind in COSTS.keys() & asked.keys():
        sizes = getattr(report, COSTS[kind])
        kept = sizes["after"] / sizes["before"]
        # Memory is a limit alone.
        least = 0 if kind == "max_memory" else 0.98 * asked[kind]
        assert least <= kept <= asked[kind] * (1 + 1e-6)
    assert lost > 0
    if "pruning_ratio" in asked and not asked.get("pruning_ratio_dict"):
        # The ratio is of all that is no prediction, what steps or limits keep whole included.
        blocked = "no smaller width is allowed"
        free = sum(
            g.width
            for g in before.groups
            if not g.frozen_reason or g.frozen_reason.startswith(blocked)
        )
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
