"""Group sparsity: what fades, how fast, and what is left alone."""

import pytest
import torch
from detectron2.engine import HookBase
from torch import nn

from blendprune.errors import ConfigError
from blendprune.pruning.graph.layer_sides import LayerSide
from blendprune.training import GroupSparsity
from blendprune.training.sparsity import _Side


class _Still(HookBase):
    """Takes the gradients away, so that the decay is all that moves the weights."""

    def after_backward(self):
        for p in self.trainer.model.parameters():
            p.grad = None


def test_the_least_important_channels_of_each_group_fade_fastest(blendmask, trainer_of):
    sparsity = GroupSparsity(5.0, period=1)
    trainer = trainer_of(blendmask(), sparsity, lr=1e-3)
    sparsity.before_train()
    before = sparsity.norms()
    trainer.train(0, 6)
    for old, new in zip(before, sparsity.norms()):
        if old.max() > 1.05 * old.min():
            kept, order = new / old, old.argsort()
            least, most = order[: len(old) // 4], order[-len(old) // 4 :]
            assert kept[least].mean() < kept[most].mean()


def test_a_group_decays_by_the_formula(blendmask, trainer_of):
    model = blendmask()
    block = model.backbone.bottom_up.res3[0]

    def parts():
        layers = (block.conv1.weight, block.norm1.weight, block.conv2.weight.transpose(0, 1))
        return [p.detach().clone() for p in layers]

    before = parts()
    norm = sum(p.square().flatten(1).sum(1) if p.dim() > 1 else p.square() for p in before).sqrt()
    trainer_of(model, _Still(), GroupSparsity(2.0, alpha=3.0), lr=0.01).train(0, 1)
    factor = 1 - 0.01 * 2.0 * 2 ** (3.0 * (norm.max() - norm) / (norm.max() - norm.min()))
    after = parts()
    torch.testing.assert_close(after[1], before[1] * factor)
    # The weights of a conv belong to a second group, too, whose factor comes on top.
    for old, new in ((before[0], after[0]), (before[2], after[2])):
        ratio = (new / old).flatten(1)
        between = (ratio / ratio[:1]).median(1).values
        torch.testing.assert_close(between, factor / factor[0], rtol=1e-3, atol=0)


def test_weights_that_do_not_train_stay(blendmask, trainer_of):
    model = blendmask("MODEL.BACKBONE.FREEZE_AT", 3)
    before = model.backbone.bottom_up.res2[0].conv1.weight.clone()
    trainer_of(model, GroupSparsity(10.0), lr=1e-2).train(0, 2)
    assert torch.equal(model.backbone.bottom_up.res2[0].conv1.weight, before)


LAYERS = {
    "conv": lambda: nn.Conv2d(8, 12, 3),
    "grouped": lambda: nn.Conv2d(8, 12, 3, groups=4),
    "transposed": lambda: nn.ConvTranspose2d(8, 12, 3),
    "linear": lambda: nn.Linear(8, 12),
    "norm": lambda: nn.BatchNorm2d(8),
}


@pytest.mark.parametrize("kind", LAYERS)
@pytest.mark.parametrize("reads", [True, False])
def test_scaling_a_side_scales_each_channels_norm(kind, reads):
    layer = LAYERS[kind]()
    nn.init.normal_(layer.weight)
    width = 8 if reads or kind == "norm" else 12
    entries = torch.arange(width)
    # A norm never reads: it normalises the channels that it gives.
    side = _Side(LayerSide(layer, reads and kind != "norm", entries, entries.flip(0)), width)
    with torch.no_grad():
        before, factors = side.squares(), torch.linspace(0.1, 1, width)
        torch.testing.assert_close(before.sum(), layer.weight.square().sum())
        side.scale(factors)
        torch.testing.assert_close(side.squares(), before * factors.square())


def test_a_strength_of_zero_is_refused():
    with pytest.raises(ConfigError, match="strength > 0"):
        GroupSparsity(0.0)


def test_the_training_logs_how_many_channels_have_faded(blendmask, trainer_of):
    sparsity = GroupSparsity(10.0, period=2)
    trainer = trainer_of(blendmask(), sparsity, lr=1e-3)
    sparsity.before_train()
    [conv, *_] = (group for group in sparsity._groups if len(group) > 1)
    with torch.no_grad():
        for side in conv:
            side.scale(torch.cat([torch.full((2,), 1e-4), torch.ones(side.width - 2)]))
    channels = sum(len(norm) for norm in sparsity.norms())
    assert round(sparsity.faded() * channels) == 2
    trainer.train(0, 3)
    logged = trainer.storage.history("faded").values()
    assert [iteration for _, iteration in logged] == [0, 2]
    assert logged[-1][0] == pytest.approx(sparsity.faded(), abs=0.02)
