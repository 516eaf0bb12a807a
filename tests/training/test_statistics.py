"""Fine-tuning keeps the statistics of batch norms, where they fit the weights."""

import pytest
import torch
from torch import nn

from blendprune.pipeline.finetune import finetune_config
from blendprune.training import FixedStatistics


def _norms(model):
    return {name: m for name, m in model.named_modules() if isinstance(m, nn.BatchNorm2d)}


def _statistics(model):
    return {
        name: (norm.running_mean.clone(), norm.running_var.clone())
        for name, norm in _norms(model).items()
    }


def test_the_statistics_stay_and_everything_else_learns(blendmask, trainer_of):
    model = blendmask()
    before, weights = _statistics(model), {n: p.clone() for n, p in model.named_parameters()}
    trainer = trainer_of(model, FixedStatistics(), lr=1e-2)
    trainer.train(0, 2)
    for name, (mean, var) in _statistics(model).items():
        assert torch.equal(mean, before[name][0]) and torch.equal(var, before[name][1])
    learned = {n for n, p in model.named_parameters() if not torch.equal(p, weights[n])}
    assert {f"{name}.weight" for name in before if name.startswith("backbone.")} <= learned
    # As the script left them.
    assert all(norm.training for norm in _norms(model).values())


def test_a_loss_that_diverges_says_what_to_do(blendmask, trainer_of, caplog):
    model = blendmask()
    for norm in _norms(model).values():
        norm.running_var.zero_()
    with pytest.raises(FloatingPointError):
        trainer_of(model, FixedStatistics(), lr=1e3).train(0, 4)
    assert "set PRUNER.FIXED_STATISTICS False" in caplog.text


@pytest.mark.parametrize("hooks", [(FixedStatistics(),), ()])
def test_the_first_step_trains_the_model_that_inference_runs(
    blendmask, trainer_of, training_batch, hooks
):
    model, features = blendmask(), []
    for norm in _norms(model).values():
        nn.init.uniform_(norm.running_var, 0.5, 2)
    model.backbone.register_forward_hook(lambda m, i, output: features.append(output["p3"]))
    images = [{"image": x["image"]} for x in training_batch()]
    model.eval()
    with torch.no_grad():
        model(images)
    model.train()
    trainer_of(model, *hooks, lr=0.0).train(0, 1)
    inferred, trained = features
    assert torch.allclose(trained, inferred, rtol=1e-4, atol=1e-5) == bool(hooks)


@pytest.mark.parametrize(
    ("opts", "expected"),
    [
        ((), True),
        (("PRUNER.FIXED_STATISTICS", False), False),
        (("PRUNER.RECONSTRUCT", False), False),
        (("PRUNER.IMPORTANCE", "magnitude"), False),
    ],
)
def test_they_stay_where_the_weights_were_fitted_to_them(blendmask_cfg, opts, expected):
    cfg = blendmask_cfg("PRUNER.MAX_FLOPS", 0.5, *opts)
    assert finetune_config(cfg, "pruned").PRUNER.FIXED_STATISTICS is expected
