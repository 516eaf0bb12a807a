"""The probe of the predictions: its squared gradients are curvatures, whatever the losses are."""

import pytest
import torch
from torch import nn

from blendprune.errors import PruningError
from blendprune.pruning import prunable
from blendprune.pruning.scores.predictions import PredictionProbe

WIDTH, PIXELS, BOXES = 6, 1000, 10


class TwoHeads(nn.Module):
    """A wide and a narrow head on the same features, and one that only training has."""

    def __init__(self, labelled=BOXES, factor=1.0):
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.features = nn.Parameter(torch.rand(WIDTH, generator=generator) + 0.5)
        self.mask = nn.Linear(WIDTH, PIXELS)
        self.box = nn.Linear(WIDTH, BOXES)
        self.auxiliary = nn.Linear(WIDTH, 5)
        self.labelled, self.factor = labelled, factor

    @property
    def device(self):
        return self.features.device

    def forward(self, batched_inputs):
        mask, box = self.mask(self.features), self.box(self.features)
        if not self.training:
            return mask, box
        return {
            "loss_mask": self.factor * (mask - 1).square().mean(),
            "loss_box": (box[: self.labelled] - 1).abs().sum() / BOXES,
            "loss_auxiliary": self.auxiliary(self.features).square().mean(),
        }


def _curvatures(model, probes=2000):
    """Mean squared gradient of the probe by each feature."""
    squares = 0
    with prunable(model):
        probe = PredictionProbe(model, [{}])
        for _ in range(probes):
            model.zero_grad()
            probe(model, [{}]).backward()
            squares = squares + model.features.grad.square()
    return squares / probes


def _scaled(layer, features, entries):
    """Diagonal of JᵀJ of one of two linear heads: mean over its entries, over their variance."""
    variance = layer(features)[:entries].var(unbiased=False)
    return layer.weight[:entries].square().mean(0) / variance / 2


@pytest.mark.parametrize("labelled", [BOXES, 4])
@torch.no_grad()
def test_each_head_counts_alike_and_only_where_it_has_labels(labelled):
    torch.manual_seed(0)
    model = TwoHeads(labelled)
    with torch.enable_grad():
        found = _curvatures(model)
    expected = _scaled(model.mask, model.features, PIXELS)
    expected = expected + _scaled(model.box, model.features, labelled)
    assert torch.allclose(found, expected, rtol=0.15)


def test_the_scale_of_a_loss_does_not_matter():
    torch.manual_seed(0)
    model = TwoHeads()
    once = _curvatures(model, probes=3)
    model.factor = 100.0
    assert torch.equal(_curvatures(model, probes=3), once)


def test_a_head_that_only_training_has_does_not_matter():
    torch.manual_seed(0)
    model = TwoHeads()
    once = _curvatures(model, probes=3)
    with torch.no_grad():
        model.auxiliary.weight.mul_(100)
    assert torch.equal(_curvatures(model, probes=3), once)
    assert model.auxiliary.weight.grad.abs().sum() == 0


def test_an_image_without_labels_moves_nothing():
    model = TwoHeads(labelled=0, factor=0.0)
    assert torch.equal(_curvatures(model, probes=1), torch.zeros(WIDTH))


def test_losses_that_are_not_finite_are_refused():
    with pytest.raises(PruningError, match="not finite"):
        _curvatures(TwoHeads(factor=float("nan")), probes=1)
