"""The regression finds what can be read off, and says how much cannot."""

import pytest
import torch

from blendprune.training.regression import FeatureRegression


def maps(channels, seed):
    return torch.randn(2, channels, 12, 12, generator=torch.Generator().manual_seed(seed))


def mixed(x, channels, seed=7):
    matrix = torch.randn(channels, x.shape[1], generator=torch.Generator().manual_seed(seed))
    return torch.einsum("dc,nchw->ndhw", matrix, x) + 3


def test_what_can_be_read_off_costs_nothing():
    x = maps(4, 0)
    assert FeatureRegression()(x, mixed(x, 6)).item() == pytest.approx(0, abs=1e-5)


def test_mixed_precision_changes_nothing():
    x, y = maps(4, 0), 300 + mixed(maps(4, 0), 6)
    with torch.autocast("cpu", torch.bfloat16):
        assert FeatureRegression()(x, y).item() == pytest.approx(0, abs=1e-5)


def test_the_loss_is_the_share_of_the_variance_that_is_missing():
    x = maps(8, 0)
    # Of eight independent channels, the student has six.
    assert FeatureRegression()(x[:, :6], 5 * x + 1).item() == pytest.approx(0.25, abs=0.03)


def test_unrelated_features_cost_about_one():
    assert FeatureRegression()(maps(4, 0), maps(6, 1)).item() == pytest.approx(1, abs=0.05)


def test_a_step_with_few_positions_goes_by_those_before():
    regression, x = FeatureRegression(), maps(8, 0)
    regression(x, mixed(x, 6))
    few = maps(8, 1)[:1, :, :1, :1]
    alone = FeatureRegression()(few, maps(6, 2)[:1, :, :1, :1])
    assert alone < 1e-3 < regression(few, maps(6, 2)[:1, :, :1, :1])


def test_the_student_is_what_learns():
    x, y = maps(4, 0).requires_grad_(), maps(6, 1)
    regression = FeatureRegression()
    losses = []
    for _ in range(20):
        loss = regression(x, y)
        [gradient] = torch.autograd.grad(loss, x)
        x = (x - 1000 * gradient).detach().requires_grad_()
        losses.append(loss.item())
    assert losses[-1] < 0.8 * losses[0]
