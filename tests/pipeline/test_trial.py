"""The fine-tuning config, tried: what stays frozen, and what does not run."""

import os

import pytest
import torch
from detectron2.config import CfgNode, get_cfg
from detectron2.layers import FrozenBatchNorm2d, get_norm
from detectron2.modeling import META_ARCH_REGISTRY
from torch import nn

from blendprune import structure
from blendprune.checkpoint.build import build_dense
from blendprune.config import add_prune_config
from blendprune.errors import ConfigError
from blendprune.pipeline.finetune import finetune_config
from blendprune.pipeline.trial import try_config
from blendprune.pruning import prune
from blendprune.report.reference import reference_of, reference_words, was_pruned
from blendprune.structure.widths import restructure


class Net(nn.Module):
    """Two convs with norms, whose key for the norms is its own."""

    def __init__(self, cfg):
        super().__init__()
        self.register_buffer("pixel_mean", torch.zeros(3, 1, 1), False)
        self.first, self.second = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 4, 3)
        self.norm = get_norm(cfg.MODEL.NET.NORM, 8)
        self.limit = cfg.MODEL.NET.LIMIT

    def forward(self, batch):
        if self.training and len(batch) > self.limit:
            raise RuntimeError("a loss of the user's own\nand more")
        y = self.second(self.norm(self.first(torch.stack([x["image"] for x in batch]).float())))
        return {"loss": y.mean()} if self.training else [{"y": each} for each in y]


class Unfreezable(Net):
    """Like AdelaiDet's DLA."""

    def __init__(self, cfg):
        assert cfg.MODEL.BACKBONE.FREEZE_AT == -1, "freezing is not supported"
        super().__init__(cfg)


class FreezesNormsAtZero(Net):
    """Like AdelaiDet's VoVNet."""

    def __init__(self, cfg):
        super().__init__(cfg)
        if cfg.MODEL.BACKBONE.FREEZE_AT >= 0:
            self.norm.requires_grad_(False)


class AlwaysFrozen(Net):
    """One conv stays frozen, whatever the config says."""

    def __init__(self, cfg):
        super().__init__(cfg)
        self.first.requires_grad_(False)


class WantsItsNorms(Net):
    """One of its norms must be frozen."""

    def __init__(self, cfg):
        assert cfg.MODEL.RESNETS.NORM == "FrozenBN"
        super().__init__(cfg)


@pytest.fixture
def cfg_of():
    """A function that makes the config of one of the models."""
    kinds = (Net, Unfreezable, FreezesNormsAtZero, AlwaysFrozen, WantsItsNorms)
    for kind in kinds:
        META_ARCH_REGISTRY.register(kind)

    def make(kind, *opts):
        cfg = get_cfg()
        add_prune_config(cfg)
        cfg.MODEL.NET = CfgNode({"NORM": "FrozenBN", "LIMIT": 9})
        cfg.MODEL.META_ARCHITECTURE, cfg.MODEL.DEVICE = kind.__name__, "cpu"
        cfg.INPUT.MIN_SIZE_TEST = 16
        cfg.merge_from_list(list(opts))
        return cfg

    yield make
    for kind in kinds:
        del META_ARCH_REGISTRY._obj_map[kind.__name__]


def _pruned(cfg):
    """A model with half of the channels of its first layer."""
    model = build_dense(cfg)
    struct = structure.structure_of(model)
    entries = struct["modules"]
    entries["first"].update(out_channels=4, weight=[4, 3, 3, 3], bias=[4])
    entries["norm"] = {key: [4] if isinstance(x, list) else 4 for key, x in entries["norm"].items()}
    entries["second"].update(in_channels=4, weight=[4, 4, 3, 3])
    restructure(model, struct)
    return model


def _tried(cfg, data=None):
    tuned = finetune_config(cfg, "pruned")
    return tuned, try_config(tuned, cfg, _pruned(cfg), data)


@pytest.mark.parametrize(
    ("kind", "users", "freeze_at"),
    [(Net, 2, 0), (Unfreezable, -1, -1), (FreezesNormsAtZero, 2, -1)],
)
def test_nothing_stays_frozen_whatever_the_backbone_wants(cfg_of, kind, users, freeze_at):
    tuned, notes = _tried(cfg_of(kind, "MODEL.BACKBONE.FREEZE_AT", users))
    assert notes == []
    assert tuned.MODEL.NET.NORM == "BN" and tuned.MODEL.BACKBONE.FREEZE_AT == freeze_at
    model = build_dense(tuned)
    assert all(p.requires_grad for p in model.parameters())
    assert not any(isinstance(module, FrozenBatchNorm2d) for module in model.modules())


def test_a_key_that_cannot_be_changed_keeps_the_users_value(cfg_of):
    tuned, notes = _tried(cfg_of(WantsItsNorms))
    assert tuned.MODEL.RESNETS.NORM == "FrozenBN" and tuned.MODEL.NET.NORM == "BN"
    assert notes == []


def test_what_stays_frozen_is_named(cfg_of):
    tuned, notes = _tried(cfg_of(AlwaysFrozen))
    # With AdelaiDet, the config has more keys of norms.
    [note] = notes
    assert note.startswith(
        "fine-tuning leaves 1 layers frozen (first, …): no value of MODEL.BACKBONE.FREEZE_AT, "
        "MODEL.RESNETS.NORM, "
    )
    assert note.endswith("MODEL.NET.NORM frees them")
    assert tuned.MODEL.BACKBONE.FREEZE_AT == 0


def test_the_statistics_of_frozen_norms_go_on_in_those_that_train(cfg_of):
    cfg = cfg_of(Net)
    model = _pruned(cfg)
    model.norm.running_mean.normal_()
    built = []

    def build(cfg):
        built.append(build_dense(cfg))
        return built[-1]

    try_config(finetune_config(cfg, "pruned"), cfg, model, build=build)
    [twin] = built
    assert type(twin.norm) is not FrozenBatchNorm2d
    assert torch.equal(twin.norm.running_mean, model.norm.running_mean)


def test_a_model_that_does_not_train_is_refused(cfg_of):
    batch = [{"image": torch.rand(3, 16, 16)}] * 2
    cfg = cfg_of(Net)
    assert _tried(cfg, [batch])[1] == []
    tuned = finetune_config(cfg, "pruned")
    tuned.MODEL.NET.LIMIT = 1
    with pytest.raises(ConfigError, match=r"does not run \(a loss of the user's own\): check"):
        try_config(tuned, cfg, _pruned(cfg), [batch])


def test_a_config_that_builds_no_model_is_refused(cfg_of):
    cfg = cfg_of(Net)
    tuned = finetune_config(cfg, "pruned")
    del tuned.MODEL["NET"]
    with pytest.raises(ConfigError, match="cannot be built .*NET"):
        try_config(tuned, cfg, _pruned(cfg))


def test_a_script_that_builds_its_model_without_the_config_is_not_stopped(cfg_of):
    cfg = cfg_of(Net)
    model = _pruned(cfg)
    model.depth = nn.Conv2d(4, 1, 1)
    [note] = try_config(finetune_config(cfg, "pruned"), cfg, model)
    assert note.startswith("the fine-tuning config was not tried: ") and "depth" in note
    assert note.endswith("and MODEL.FINETUNE needs that")

    def build(cfg):
        dense = build_dense(cfg)
        dense.depth = nn.Conv2d(4, 1, 1)
        return dense

    assert try_config(finetune_config(cfg, "pruned"), cfg, model, build=build) == []


def test_data_that_the_model_cannot_train_on_does_not_stop_it(cfg_of):
    cfg = cfg_of(Net)
    unlabelled = [{"image": torch.rand(1, 16, 16)}] * 2
    [note] = try_config(finetune_config(cfg, "pruned"), cfg, _pruned(cfg), [unlabelled])
    assert note.startswith("training with the fine-tuning config was not tried: the model that")


def test_a_trial_leaves_the_random_numbers_alone(cfg_of):
    cfg = cfg_of(Net)
    model, before = _pruned(cfg), torch.get_rng_state()
    try_config(finetune_config(cfg, "pruned"), cfg, model)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize(
    ("name", "norm"),
    [("FCOS_RT/MS_DLA_34_4x_syncbn", "DLA"), ("vovnet/MS_V_39_3x", "VOVNET")],
)
def test_nothing_stays_frozen_of_adelaidets_backbones(adelaidet, registered, name, norm):
    from adet.config import get_cfg

    cfg = get_cfg()
    folder = os.path.join(os.path.dirname(adelaidet.__path__[0]), "configs", "FCOS-Detection")
    cfg.merge_from_file(os.path.join(folder, f"{name}.yaml"))
    cfg.MODEL.DEVICE, cfg.MODEL.WEIGHTS, cfg.INPUT.MIN_SIZE_TEST = "cpu", "", 128
    cfg.MODEL[norm].NORM = "FrozenBN"
    model = build_dense(cfg)
    prune(model, max_flops=0.8, importance="magnitude", rounds=1)
    tuned = finetune_config(cfg, "pruned")
    assert try_config(tuned, cfg, model) == []
    assert tuned.MODEL.BACKBONE.FREEZE_AT == -1 and tuned.MODEL[norm].NORM == "BN"
    built = build_dense(tuned)
    assert all(p.requires_grad for p in built.parameters())
    assert not any(isinstance(module, FrozenBatchNorm2d) for module in built.modules())


def test_what_a_pruned_model_is_a_fraction_of_is_open_if_its_dense_model_cannot_be_built(cfg_of):
    cfg = cfg_of(Net)
    model = _pruned(cfg)
    known = reference_of(cfg, model)
    assert 0.4 < known["params"] < 0.6 and 0.4 < known["flops"] < 0.6
    del cfg.MODEL["NET"]
    unknown = reference_of(cfg, model)
    assert unknown["flops"] is None and was_pruned(unknown)
    assert reference_words({**unknown, "weights": "a.pth"}) == "the model at a.pth (already pruned)"
