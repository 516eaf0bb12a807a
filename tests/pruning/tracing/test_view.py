"""The prunable view changes nothing by being opened and closed."""

import pytest
import torch
import torch_pruning as tp
from detectron2.layers import FrozenBatchNorm2d
from torch import nn

from blendprune.pruning import head_outputs, prediction_layers, prunable
from tests.helpers.outputs import outputs_of

NORMS = ["FrozenBN", "BN", "SyncBN"]


def state_of(model):
    return {key: value.clone() for key, value in model.state_dict().items()}


def facts_of(model):
    return [
        (name, id(module), type(module), module.training) for name, module in model.named_modules()
    ] + [(name, id(p), p.requires_grad) for name, p in model.named_parameters()]


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("head", ["GN", "BN", "none", "NaiveGN"])
def test_opening_and_closing_the_view_leaves_no_trace(blendmask, images, norm, head):
    model = blendmask(
        "MODEL.RESNETS.NORM", norm, "MODEL.FCOS.NORM", head, "MODEL.BACKBONE.FREEZE_AT", 2
    )
    model.train()
    facts, state, before = facts_of(model), state_of(model), outputs_of(model, images)
    with prunable(model):
        assert list(model.state_dict()) == list(state)
        assert all(p.requires_grad for p in model.parameters())
        inside = outputs_of(model, images)
    assert all(torch.allclose(a, b, atol=1e-6) for a, b in zip(inside, before))
    assert facts_of(model) == facts
    assert list(model.state_dict()) == list(state)
    assert all(torch.equal(value, state[key]) for key, value in model.state_dict().items())
    assert all(torch.equal(a, b) for a, b in zip(outputs_of(model, images), before))


def test_an_exception_inside_folds_the_view_back(blendmask):
    model = blendmask("MODEL.RESNETS.NORM", "FrozenBN")
    facts = facts_of(model)
    with pytest.raises(ZeroDivisionError), prunable(model):
        raise ZeroDivisionError
    assert facts_of(model) == facts


def test_views_nest(blendmask):
    model = blendmask("MODEL.RESNETS.NORM", "FrozenBN")
    facts = facts_of(model)
    with prunable(model):
        outer = facts_of(model)
        with prunable(model):
            assert facts_of(model) == outer
        assert facts_of(model) == outer
    assert facts_of(model) == facts


def test_frozen_norms_are_shown_as_batch_norms_that_stay_fixed(blendmask, images):
    model = blendmask("MODEL.RESNETS.NORM", "FrozenBN").train()
    norm = model.backbone.bottom_up.stem.conv1.norm
    mean = norm.running_mean.clone()
    with prunable(model):
        assert isinstance(norm, nn.BatchNorm2d)
        assert isinstance(norm.weight, nn.Parameter)
        model.train()
        head_outputs(model, images)
    assert isinstance(norm, FrozenBatchNorm2d)
    assert not list(norm.parameters())
    assert torch.equal(norm.running_mean, mean)


@pytest.mark.parametrize("norm", NORMS)
def test_a_hand_written_torch_pruning_script_works_inside_the_view(
    blendmask, images, batches, norm
):
    model = blendmask(
        "MODEL.RESNETS.NORM", norm, "MODEL.BACKBONE.FREEZE_AT", 2, "MODEL.FCOS.NORM", "BN"
    )
    frozen = {name for name, p in model.named_parameters() if not p.requires_grad}
    widths = {m: m.out_channels for m in model.modules() if isinstance(m, nn.Conv2d)}
    with prunable(model):
        ignored = prediction_layers(model.eval(), images)
        pruner = tp.pruner.MagnitudePruner(
            model,
            images,
            importance=tp.importance.MagnitudeImportance(p=2),
            pruning_ratio=0.5,
            ignored_layers=ignored,
            forward_fn=head_outputs,
        )
        pruner.step()
        inside = outputs_of(model, images)
    assert all(torch.allclose(a, b, atol=1e-5) for a, b in zip(outputs_of(model, images), inside))
    assert all(layer.out_channels == widths[layer] for layer in ignored)
    assert model.backbone.bottom_up.stem.conv1.out_channels == 32
    assert {name for name, p in model.named_parameters() if not p.requires_grad} == frozen
    model.train()
    sum(model(batches[0]).values()).backward()


class Downsample(nn.Module):
    """Smooths as LPF does: a fixed filter, of one shape for every channel."""

    def __init__(self, channels):
        super().__init__()
        self.stride, self.pad = 2, nn.ReflectionPad2d(1)
        weights = torch.tensor([1.0, 2.0, 1.0])
        filt = (weights[:, None] * weights / 16).repeat(channels, 1, 1, 1)
        self.register_buffer("filt", filt)

    def forward(self, x):
        x = self.pad(x)
        return nn.functional.conv2d(x, self.filt, stride=self.stride, groups=x.shape[1])


def test_a_fixed_filter_loses_channels_and_comes_back_as_a_buffer():
    model = nn.Sequential(nn.Conv2d(3, 8, 1), Downsample(8), nn.Conv2d(8, 4, 1)).eval()
    images = torch.rand(1, 3, 8, 8)
    facts = facts_of(model)
    with torch.no_grad():
        model[2].weight[:, [2, 5]] = 0
        expected = model(images)
    with prunable(model):
        assert list(model.state_dict()) == ["0.weight", "0.bias", "1.filt", "2.weight", "2.bias"]
        graph = tp.DependencyGraph().build_dependency(model, images)
        graph.get_pruning_group(model[0], tp.prune_conv_out_channels, [2, 5]).prune()
    assert facts_of(model)[:4] == facts[:4]
    assert isinstance(model[1].filt, torch.Tensor) and not list(model[1].parameters())
    assert model[1].filt.shape == (6, 1, 3, 3)
    assert torch.allclose(model(images), expected, atol=1e-6)
