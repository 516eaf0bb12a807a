"""prune(): for every kind of BlendMask, to every kind of target."""

import copy

import pytest
import torch
import torch_pruning as tp
from torch import nn

from blendprune.errors import ConfigError, PruningError, TargetUnreachable
from blendprune.pruning import (
    count_flops,
    count_params,
    prediction_layers,
    prunable,
    prune,
    pruning_table,
)
from blendprune.pruning.cost.count import count_costs, total_costs
from blendprune.pruning.tracing.layer_kinds import is_prunable_layer
from tests.helpers.blendmask_options import FROZEN, PANOPTIC, R50, SHARED, WIDE
from tests.helpers.outputs import outputs_of
from tests.helpers.silent_channels import prune_the_dead, silence_half_of_every_group
from tests.helpers.state import remember, unchanged

# Depth, norms, towers, auxiliary loss, panoptic branch and freezing, each in several company.
CONFIGS = {
    "r18-bn-gn": WIDE,
    "r18-frozen-gn-freeze": (*WIDE, *FROZEN),
    "r18-syncbn-bn-freeze": (
        "MODEL.RESNETS.NORM",
        "SyncBN",
        "MODEL.FCOS.NORM",
        "BN",
        "MODEL.BACKBONE.FREEZE_AT",
        5,
    ),
    "r18-bn-naivegn-shared": (*WIDE, *SHARED, "MODEL.FCOS.NORM", "NaiveGN"),
    "r18-bn-none-noloss": ("MODEL.FCOS.NORM", "none", "MODEL.BASIS_MODULE.LOSS_ON", False),
    "r18-bn-bn-panoptic": (*PANOPTIC, "MODEL.FCOS.NORM", "BN"),
    "r50-frozen-gn-freeze": (*R50, *WIDE, *FROZEN),
    "r50-bn-bn-shared-noloss": (
        *R50,
        *SHARED,
        "MODEL.FCOS.NORM",
        "BN",
        "MODEL.BASIS_MODULE.LOSS_ON",
        False,
    ),
    "r50-syncbn-none-panoptic": (
        *R50,
        *PANOPTIC,
        "MODEL.RESNETS.NORM",
        "SyncBN",
        "MODEL.FCOS.NORM",
        "none",
        "MODEL.BASIS_MODULE.NORM",
        "GN",
    ),
}
TARGETS = {
    "ratio-local": {"pruning_ratio": 0.5, "global_pruning": False},
    "ratio-global": {"pruning_ratio": 0.4},
    "flops-local": {"max_flops": 0.5, "global_pruning": False},
    "flops-global": {"max_flops": 0.45},
    "flops-taylor": {"max_flops": 0.6, "importance": "taylor", "rounds": 2},
    "params-isomorphic": {"max_params": 0.5, "isomorphic": True},
}


def prediction_widths(model, images):
    names = {module: name for name, module in model.named_modules()}
    with prunable(model):
        layers = prediction_layers(model.eval(), images)
        return {names[layer]: layer.out_channels for layer in layers}


def train_one_step(model, batch):
    model.train()
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=1e-4)
    losses = model(batch)
    total = sum(losses.values())
    assert torch.isfinite(total)
    total.backward()
    missing = [n for n, p in model.named_parameters() if p.requires_grad and p.grad is None]
    optimizer.step()
    model.eval()
    return losses, missing


# What only two of the others show together.
MORE = (
    ("r50-bn-bn-shared-noloss", "flops-global"),
    ("r50-frozen-gn-freeze", "flops-global"),
    ("r50-syncbn-none-panoptic", "flops-global"),
    ("r18-bn-bn-panoptic", "ratio-local"),
    ("r18-syncbn-bn-freeze", "ratio-local"),
    ("r18-bn-gn", "flops-local"),
    ("r18-bn-gn", "ratio-global"),
)


@pytest.mark.parametrize(
    "config, target",
    [(config, "flops-global") for config in CONFIGS if (config, "flops-global") not in MORE]
    + [("r18-bn-gn", t) for t in TARGETS if t != "flops-global" and ("r18-bn-gn", t) not in MORE]
    + [pytest.param(*case, marks=pytest.mark.slow) for case in MORE],
)
def test_a_pruned_blendmask_meets_its_target_runs_and_trains(
    blendmask, images, batches, config, target
):
    model = blendmask(*CONFIGS[config])
    asked = {"importance": "magnitude", "rounds": 1, **TARGETS[target]}
    flops, params = sum(count_flops(model, images).values()), count_params(model)
    widths = prediction_widths(model, images)
    frozen = {name for name, p in model.named_parameters() if not p.requires_grad}

    report = prune(model, images, data=batches, **asked)

    assert prediction_widths(model, images) == widths
    assert report.flops == {"before": flops, "after": sum(count_flops(model, images).values())}
    assert report.params == {"before": params, "after": count_params(model)}
    if "max_flops" in asked:
        assert 0.98 * asked["max_flops"] <= report.flops["after"] / flops <= asked["max_flops"]
    elif "max_params" in asked:
        assert 0.98 * asked["max_params"] <= report.params["after"] / params <= asked["max_params"]
    else:
        assert report.params["after"] < 0.8 * params
    assert {name for name, p in model.named_parameters() if not p.requires_grad} == frozen
    for module in model.modules():
        if isinstance(module, nn.GroupNorm):
            assert module.num_channels % module.num_groups == 0
            assert module.num_channels == module.weight.numel()

    with torch.no_grad():
        model(images)
    losses, missing = train_one_step(model, batches[0])
    assert not missing
    assert ("loss_basis_sem" in losses) == ("noloss" not in config)
    assert ("loss_sem_seg" in losses) == ("panoptic" in config)
    assert {name: w["after"] for name, w in report.layers.items()} == {
        name: getattr(m, "out_channels", 0)
        for name, m in model.named_modules()
        if is_prunable_layer(m)
    }


@pytest.mark.parametrize("config", [c for c in CONFIGS if "gn" not in c and "panoptic" not in c])
def test_removing_channels_that_have_no_effect_changes_no_output(blendmask, images, config):
    model = blendmask(*CONFIGS[config])
    dead = silence_half_of_every_group(model, images)
    before = outputs_of(model, images)
    report = prune_the_dead(model, images, dead)
    assert report.flops["after"] < 0.4 * report.flops["before"]
    for a, b in zip(outputs_of(model, images), before):
        assert torch.allclose(a, b, atol=1e-4 * max(1.0, b.abs().max().item()))


def test_the_pruned_model_gives_inside_the_view_what_it_gives_outside(blendmask, images):
    model = blendmask("MODEL.RESNETS.NORM", "FrozenBN", *WIDE)
    prune(model, images, max_flops=0.5, importance="magnitude", rounds=2)
    outside = outputs_of(model, images)
    with prunable(model):
        inside = outputs_of(model, images)
    assert all(torch.allclose(a, b, atol=1e-6) for a, b in zip(inside, outside))


def test_a_pruned_state_dict_loads_into_a_copy(blendmask, images):
    model = blendmask(*WIDE)
    prune(model, images, max_flops=0.5, importance="magnitude", rounds=1)
    other = copy.deepcopy(model)
    with torch.no_grad():
        for p in other.parameters():
            p.zero_()
    other.load_state_dict(model.state_dict(), strict=True)
    pairs = zip(outputs_of(model, images), outputs_of(other, images))
    assert all(torch.equal(a, b) for a, b in pairs)


def test_a_target_out_of_reach_says_what_can_be_reached_and_changes_nothing(blendmask, images):
    model = blendmask(*CONFIGS["r18-frozen-gn-freeze"])
    before = remember(model)
    with pytest.raises(
        TargetUnreachable, match=r"max_flops 0.01 is out of reach: .* go down to 0"
    ) as raised:
        prune(model, images, max_flops=0.01, importance="magnitude")
    assert unchanged(model, before)
    reachable = raised.value.reachable
    report = prune(model, images, max_flops=reachable * 1.03, importance="magnitude", rounds=2)
    assert report.flops["after"] <= 1.03 * reachable * report.flops["before"]


def test_a_failure_between_rounds_leaves_the_model_as_it_was(blendmask, images):
    model = blendmask(*CONFIGS["r18-frozen-gn-freeze"]).train()
    before = remember(model)
    calls = []

    def fails_later(group):
        calls.append(group)
        if len(calls) > 60:
            raise ZeroDivisionError
        return tp.importance.MagnitudeImportance()(group)

    with pytest.raises(ZeroDivisionError):
        prune(model, images, pruning_ratio=0.5, importance=fails_later, rounds=8)
    assert len(calls) > 60
    assert unchanged(model, before)


def test_scores_that_are_not_finite_are_refused(blendmask, images):
    model = blendmask(*WIDE)
    with pytest.raises(PruningError, match="no finite score for each channel"):
        prune(
            model,
            images,
            max_flops=0.5,
            importance=lambda group: torch.full((len(group[0].idxs),), float("nan")),
        )


@pytest.mark.parametrize("flag", [False, True])
def test_the_model_prune_flag_makes_no_difference(blendmask, images, batches, flag):
    model = blendmask(*WIDE)
    model.model_prune = model.proposal_generator.model_prune = flag
    forward = type(model).forward

    def leaves_early(self, batched_inputs):
        return {} if self.model_prune and self.training else forward(self, batched_inputs)

    type(model).forward = leaves_early
    try:
        how = {"importance": "taylor", "reconstruct": False, "rounds": 1}
        report = prune(model, images, max_flops=0.5, data=batches, **how)
    finally:
        type(model).forward = forward
    assert model.model_prune is flag
    assert 0.49 <= report.flops["after"] / report.flops["before"] <= 0.5


def test_scoring_leaves_statistics_and_counters_alone(blendmask, images, batches):
    model = blendmask(*WIDE)
    snapshot = {k: v.clone() for k, v in model.named_buffers()}
    outputs = next(m for m in model.modules() if hasattr(m, "moving_num_fg"))
    moving = outputs.moving_num_fg
    prune(model, images, max_flops=0.98, data=batches, rounds=1, reconstruct=False)
    stem = "backbone.bottom_up.stem.conv1.norm.running_mean"
    now = dict(model.named_buffers())
    assert all(value in snapshot[stem] for value in now[stem])
    assert outputs.moving_num_fg == moving


def test_blocks_with_norms_of_their_own_are_pruned_alike(blendmask, images, overlay):
    model = blendmask(*WIDE)
    block = model.backbone.bottom_up.res3[0]
    assert isinstance(block.norm1, nn.BatchNorm2d) and block.conv1.norm is None
    keys, before = list(model.state_dict()), outputs_of(model, images)
    with prunable(model):
        assert list(model.state_dict()) == keys
        assert all(torch.equal(a, b) for a, b in zip(outputs_of(model, images), before))
    prune(model, images, max_flops=0.5, importance="magnitude", rounds=2)
    assert list(model.state_dict()) == keys
    assert block.norm1.num_features == block.conv1.out_channels < 128
    assert block.norm3.num_features == block.out_channels == block.shortcut.out_channels


def test_ignored_layers_keep_their_width(blendmask, images):
    model = blendmask("MODEL.FCOS.NORM", "BN")
    kept = model.backbone.bottom_up.res3[0].conv1
    report = prune(
        model,
        images,
        pruning_ratio=0.5,
        importance="magnitude",
        global_pruning=False,
        ignored_layers=[kept, "backbone.bottom_up.res2", "*.cls_tower.0"],
    )
    kept_names = ["backbone.bottom_up.res3.0.conv1", "proposal_generator.fcos_head.cls_tower.0"]
    kept_names += [name for name in report.layers if ".res2." in name]
    for name in kept_names:
        assert report.layers[name]["before"] == report.layers[name]["after"], name
    assert any("res3.0.conv1" in note and "ignored" in note for note in report.notes)


@pytest.mark.parametrize("round_to", [8, 16])
def test_new_widths_are_multiples_of_round_to(blendmask, images, round_to):
    model = blendmask(*WIDE)
    report = prune(
        model, images, pruning_ratio=0.6, importance="magnitude", round_to=round_to, rounds=2
    )
    changed = [w["after"] for w in report.layers.values() if w["before"] != w["after"]]
    assert changed
    assert all(width % round_to == 0 for width in changed)


def test_no_group_loses_more_than_max_pruning_ratio(blendmask, images):
    model = blendmask(*WIDE)
    report = prune(
        model, images, max_flops=0.4, importance="random", max_pruning_ratio=0.5, rounds=3
    )
    assert all(w["after"] >= w["before"] / 2 for w in report.layers.values())


@pytest.mark.slow
def test_more_rounds_meet_the_same_target(blendmask, images, batches):
    for rounds in (1, 3):
        model, done = blendmask(*WIDE), []
        report = prune(
            model,
            images,
            max_flops=0.5,
            importance="taylor",
            data=batches,
            rounds=rounds,
            progress=lambda *step, done=done: done.append(step),
        )
        assert 0.49 <= report.flops["after"] / report.flops["before"] <= 0.5
        assert done == [(i, rounds) for i in range(1, rounds + 1)]


@pytest.mark.slow
def test_memory_goes_down_to_a_limit(blendmask, images):
    model = blendmask(*WIDE)
    report = prune(model, images, max_memory=0.7, importance="magnitude", round_to=1)
    found = total_costs(model, count_costs(model, images, memory=True))["memory"] / 1e6
    assert report.memory_mb["after"] == found
    assert 0.98 * 0.7 <= found / report.memory_mb["before"] <= 0.7 + 1e-9
    # Small maps are in memory when there is room.
    layers = report.layers["backbone.bottom_up.res4.0.conv1"]
    assert layers["before"] == layers["after"]


def test_the_config_that_a_model_carries_stands_in_for_example_inputs(blendmask, blendmask_cfg):
    model = blendmask(*WIDE)
    model.blendprune_config = blendmask_cfg(*WIDE).dump()
    report = prune(model, max_flops=0.5, importance="magnitude", rounds=1)
    assert report.flops["after"] < 0.5 * report.flops["before"]


def test_the_table_names_totals_and_changed_layers(blendmask, images):
    model = blendmask(*WIDE)
    report = prune(model, images, max_flops=0.5, importance="magnitude", rounds=1)
    table = pruning_table(report)
    assert "FLOPs (M)" in table and "params (k)" in table
    assert "backbone.bottom_up.res3.0.conv1" in table
    assert "cls_logits" not in table
    assert report.to_dict()["flops"] == report.flops


@pytest.mark.parametrize(
    "arguments, sentence",
    [
        ({}, "exactly one of pruning_ratio, max_flops, max_params, max_activations, max_memory"),
        ({"max_flops": 0.5, "max_params": 0.5}, "got max_flops, max_params"),
        ({"max_flops": 1.0}, "max_flops must be a number between 0 and 1, got 1.0"),
        ({"max_flops": 0}, "max_flops must be a number between 0 and 1, got 0"),
        ({"max_flops": float("nan")}, "max_flops must be a number between 0 and 1, got nan"),
        ({"pruning_ratio": "half"}, "pruning_ratio must be a number between 0 and 1, got 'half'"),
        ({"pruning_ratio": 0.95}, "pruning_ratio 0.95 is above max_pruning_ratio 0.9"),
        ({"max_flops": 0.5, "rounds": -1}, "rounds must be a whole number of at least 1, got -1"),
        ({"max_flops": 0.5, "round_to": -8}, "round_to must be a whole number of at least 1"),
        (
            {"max_flops": 0.5, "importance": "l2"},
            "importance 'l2' is not known; known are activation, ",
        ),
        ({"max_flops": 0.5, "importance": "taylor"}, "pass data=… .* or use importance='magn"),
        ({"max_flops": 0.5, "ignored_layers": ["head"]}, "ignored_layers has 'head', which is no"),
        ({"max_flops": 0.5, "example_inputs": None}, "pass example_inputs="),
        ({"max_flops": 0.5, "example_inputs": [1]}, "example_inputs must be a list of dicts"),
        ({"max_flops": 0.5, "data": []}, "data holds no images"),
    ],
)
def test_a_wrong_argument_is_one_clear_sentence(blendmask, images, arguments, sentence):
    model = blendmask(*WIDE)
    before = remember(model)
    with pytest.raises(ConfigError, match=sentence) as raised:
        prune(model, **{"example_inputs": images, "importance": "magnitude", **arguments})
    assert "\n" not in str(raised.value)
    assert unchanged(model, before)


def test_what_a_reader_outside_the_graph_reads_stays(blendmask, images):
    model = blendmask(*WIDE)
    lateral = model.backbone.fpn_lateral4

    class Detached(nn.Module):
        """Reads res4 where no gradient, and so no graph, can follow."""

        def __init__(self, plain):
            super().__init__()
            self.plain = plain
            self.stray = nn.Conv2d(plain.in_channels, 4, 1)

        def forward(self, x):
            self.stray(x.detach())
            return self.plain(x)

    model.backbone.lateral_convs[0] = model.backbone.fpn_lateral4 = Detached(lateral)
    report = prune(model, images, pruning_ratio=0.5, importance="magnitude", global_pruning=False)
    [note] = [note for note in report.notes if "where no gradient follows" in note]
    assert "all 256 channels stay: backbone.fpn_lateral4.stray reads it" in note
    widths = report.layers["backbone.bottom_up.res4.1.conv2"]
    assert widths["before"] == widths["after"]
    assert report.layers["backbone.bottom_up.res4.1.conv1"]["after"] < 256
    with torch.no_grad():
        model(images)


def test_the_report_says_where_the_time_went(blendmask, images, batches):
    report = prune(blendmask(), images, max_flops=0.6, data=batches[:1], rounds=1)
    stages = ["counting", "tracing", "scoring", "dense features", "replay", "solving", "checks"]
    assert sorted(report.seconds) == sorted(stages)
    assert min(report.seconds.values()) > 0
    assert 0.8 * report.wall_s < sum(report.seconds.values()) < report.wall_s
    by_weights = prune(blendmask(), images, max_flops=0.5, importance="magnitude")
    assert set(by_weights.seconds) == {"counting", "tracing", "scoring", "checks"}
