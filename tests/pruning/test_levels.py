"""Several targets from one run: each level is what a run that ends there gives."""

import copy

import pytest
import torch

from blendprune.errors import ConfigError, TargetUnreachable
from blendprune.pruning import prune
from tests.helpers.blendmask_options import WIDE
from tests.helpers.chain import Chain, chain_inputs
from tests.helpers.state import remember, unchanged

LAST = {"pruning_ratio": 0.6, "max_flops": 0.4, "max_params": 0.4, "max_activations": 0.5}
LEVELS = {kind: [0.3, 0.45] if kind == "pruning_ratio" else [0.6, 0.8] for kind in LAST}


def _prune(model, images, batches, **how):
    """Prune, and keep the model at each level, with its report."""
    kept = {}

    def keep(level, report):
        kept[level] = copy.deepcopy(model), report

    report = prune(model, images, data=batches, rounds=2, on_level=keep, **how)
    return kept, report


def _equal(model, other):
    ours, theirs = model.state_dict(), other.state_dict()
    return list(ours) == list(theirs) and all(torch.equal(v, theirs[k]) for k, v in ours.items())


@pytest.mark.parametrize(
    "kind, scope",
    [(kind, {"importance": "magnitude"}) for kind in LAST]
    + [("max_flops", {}), ("pruning_ratio", {"importance": "fisher", "global_pruning": False})],
)
def test_a_level_is_what_a_run_that_ends_there_gives(kind, scope):
    model, images = Chain().eval(), chain_inputs()
    batches = [chain_inputs(seed) for seed in range(2)]
    first, second = copy.deepcopy(model), copy.deepcopy(model)
    levels = LEVELS[kind]
    kept, report = _prune(model, images, batches, levels=levels, **{kind: LAST[kind]}, **scope)
    order = sorted(levels, reverse=kind != "pruning_ratio")
    assert list(kept) == order

    alone = prune(first, images, data=batches, rounds=2, **{kind: order[0]}, **scope)
    assert _equal(first, kept[order[0]][0])
    assert (alone.flops, alone.layers) == (kept[order[0]][1].flops, kept[order[0]][1].layers)

    _prune(second, images, batches, levels=order[:1], **{kind: order[1]}, **scope)
    assert _equal(second, kept[order[1]][0])

    after = [kept[level][1].flops["after"] for level in order] + [report.flops["after"]]
    assert after == sorted(after, reverse=True) and len(set(after)) == 3
    for level in order:
        if kind == "max_flops":
            flops = kept[level][1].flops
            assert 0.98 * level <= flops["after"] / flops["before"] <= level


@pytest.mark.slow
def test_a_level_of_a_blendmask_is_what_a_run_that_ends_there_gives(blendmask, images, batches):
    model, reached = blendmask(), []
    alone = copy.deepcopy(model)

    def keep(level, report):
        reached.append((copy.deepcopy(model), report))

    prune(model, images, data=batches, max_flops=0.6, levels=[0.8], rounds=1, on_level=keep)
    report = prune(alone, images, data=batches, max_flops=0.8, rounds=1)
    [(kept, first)] = reached
    assert _equal(alone, kept) and not _equal(alone, model)
    assert (report.flops, report.layers) == (first.flops, first.layers)


def test_what_a_layer_loses_whatever_the_target_it_has_lost_at_the_first_level():
    kept, report = _prune(
        Chain().eval(),
        *(chain_inputs(), [chain_inputs(1)]),
        max_flops=0.5,
        levels=[0.7],
        pruning_ratio_dict={"second": 0.25},
    )
    assert kept[0.7][1].layers["second"] == report.layers["second"] == {"before": 60, "after": 45}


def test_a_target_out_of_reach_is_refused_before_the_first_level(blendmask, images):
    model, reached = blendmask(*WIDE), []
    before = remember(model)
    with pytest.raises(TargetUnreachable, match="max_flops 0.001 is out of reach"):
        prune(
            model,
            images,
            max_flops=0.001,
            levels=[0.8],
            importance="magnitude",
            on_level=lambda level, report: reached.append(level),
        )
    assert not reached
    assert unchanged(model, before)


def test_a_failure_after_a_level_leaves_the_model_as_it_was(blendmask, images):
    model = blendmask(*WIDE)
    before = remember(model)

    def fail(level, report):
        assert not unchanged(model, before)
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        prune(model, images, max_flops=0.5, levels=[0.8], importance="magnitude", on_level=fail)
    assert unchanged(model, before)


@pytest.mark.parametrize(
    "how, words",
    [
        ({"max_flops": 0.5, "levels": [0.4]}, "level 0.4 is not on the way to max_flops 0.5"),
        ({"pruning_ratio": 0.5, "levels": [0.6]}, "level 0.6 is not on the way to pruning_ratio"),
        ({"max_flops": 0.5, "levels": [1.5]}, "a level must be a number between 0 and 1, got 1.5"),
    ],
)
def test_levels_that_cannot_hold_are_refused(blendmask, images, how, words):
    with pytest.raises(ConfigError, match=words):
        prune(blendmask(*WIDE), images, importance="magnitude", **how)
