"""What an entry point refuses, and which modes of the caller do not reach it."""

import contextlib

import pytest
import torch
from torch import nn

from blendprune.errors import ConfigError, PruningError
from blendprune.pruning import measure_sensitivity, plan, prune
from blendprune.pruning.tracing.entry import default_device, refuse_nonfinite
from tests.helpers.chain import Chain, chain_inputs
from tests.helpers.state import remember, unchanged


@contextlib.contextmanager
def _set(setter, value, before):
    setter(value)
    try:
        yield
    finally:
        setter(before)


MODES = {
    "autocast": lambda: torch.autocast("cpu", dtype=torch.bfloat16),
    "no_grad": torch.no_grad,
    "inference_mode": torch.inference_mode,
    "default dtype": lambda: _set(torch.set_default_dtype, torch.float64, torch.float32),
    "default device": lambda: _set(torch.set_default_device, "meta", None),
    "deterministic": lambda: _set(torch.use_deterministic_algorithms, True, False),
}


def _chain():
    torch.manual_seed(0)
    return Chain(8, 8)


def _modes():
    return (
        torch.is_autocast_enabled("cpu"),
        torch.is_grad_enabled(),
        torch.is_inference_mode_enabled(),
        torch.get_default_dtype(),
        default_device(),
    )


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("importance", ["obs", "activation"])
def test_pruning_is_the_same_in_every_mode_of_the_caller(mode, importance):
    data, models = [chain_inputs(0), chain_inputs(1)], [_chain(), _chain()]
    how = {"pruning_ratio": 0.4, "data": data, "importance": importance, "rounds": 2}
    inputs = chain_inputs()
    prune(models[0], inputs, **how)
    with MODES[mode]():
        before = _modes()
        prune(models[1], inputs, **how)
        assert _modes() == before
    one, two = (model.state_dict() for model in models)
    assert all(torch.equal(one[key], two[key]) and not two[key].is_inference() for key in one)
    models[1].train()(chain_inputs())["loss"].backward()


@pytest.mark.parametrize("mode", MODES)
def test_plans_and_sensitivity_are_the_same_in_every_mode_of_the_caller(mode):
    inputs = chain_inputs()

    def measure(model):
        found = measure_sensitivity(model, inputs, data=[inputs], ratios=[0.5])
        return plan(model, inputs).to_dict(), found

    wanted = measure(_chain())
    model = _chain()
    with MODES[mode]():
        assert measure(model) == wanted


@pytest.mark.parametrize("frozen", [True, False])
@pytest.mark.parametrize("training", [True, False])
def test_modes_and_flags_of_the_model_are_kept(frozen, training):
    model = _chain().train(training).requires_grad_(not frozen)
    prune(model, chain_inputs(), pruning_ratio=0.4, data=[chain_inputs()])
    assert all(module.training is training for module in model.modules())
    assert all(p.requires_grad is not frozen for p in model.parameters())


def _spoil(name, value, model=None):
    model = model or _chain()
    dict([*model.named_parameters(), *model.named_buffers()])[name].data.view(-1)[:2] = value
    return model


class Scripted(Chain):
    """A chain with a scripted layer."""

    def __init__(self):
        super().__init__(8, 8)
        self.second = torch.jit.script(nn.Sequential(nn.Conv2d(8, 8, 1)))


def _inferred():
    with torch.inference_mode():
        return _chain()


REFUSED = {
    "nan": (lambda: _spoil("second.weight", torch.nan), "second.weight holds 2 NaN or Inf among"),
    "inf": (lambda: _spoil("first.weight", torch.inf), "first.weight holds 2 NaN or Inf among"),
    "half": (lambda: _chain().half(), r"first.weight is float16: .*\(model.float\(\)\)"),
    "bfloat16": (lambda: _chain().bfloat16(), "first.weight is bfloat16: prune in float32"),
    "meta": (lambda: _chain().to("meta"), "first.weight is on the meta device .* model.to_empty"),
    "inference": (_inferred, "first.weight was made inside torch.inference_mode .* build or load"),
    "scripted": (Scripted, "second is a torch.jit.ScriptModule.*: prune the model first, then"),
    "nothing": (nn.Identity, "Identity has no parameters, so nothing can be pruned: pass the"),
}


@pytest.mark.filterwarnings("ignore:.*torch.jit.script")
@pytest.mark.parametrize("kind", REFUSED)
def test_a_model_that_cannot_be_pruned_is_refused_before_data_is_read(kind):
    make, sentence = REFUSED[kind]

    def data():
        raise AssertionError("data was read")
        yield

    model = make()
    for call in (
        lambda: prune(model, chain_inputs(), max_flops=0.5, data=data()),
        lambda: measure_sensitivity(model, chain_inputs(), data=data()),
    ):
        with pytest.raises(PruningError, match=sentence) as raised:
            call()
        assert "\n" not in str(raised.value)


def test_weights_that_are_not_finite_do_not_hinder_a_plan_and_stay():
    model = _spoil("first.weight", torch.nan)
    assert plan(model, chain_inputs()).flops["now"] > 0
    assert model.first.weight.isnan().sum() == 2


@pytest.mark.parametrize("model", [None, "model.pth", Chain, {"model": 1}])
def test_what_is_no_model_is_refused(model):
    for call in (prune, plan, measure_sensitivity):
        with pytest.raises(ConfigError, match=f"the model is a {type(model).__name__}: pass the"):
            call(model)


def test_all_spoilt_tensors_are_counted_statistics_among_them():
    net = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.Linear(4, 2))
    refuse_nonfinite(net)
    _spoil("1.running_var", torch.inf, net)
    with pytest.raises(PruningError, match="^1.running_var holds 2 NaN or Inf among 4 numbers: lo"):
        refuse_nonfinite(net)
    _spoil("0.bias", torch.nan, net)
    with pytest.raises(PruningError, match="^0.bias holds 2 .* numbers, and 1 other tensor does: "):
        refuse_nonfinite(net)
    _spoil("2.weight", torch.nan, net)
    with pytest.raises(PruningError, match="numbers, and 2 other tensors do: "):
        refuse_nonfinite(net)


def test_buffers_may_hold_infinity_on_purpose():
    net = nn.Conv2d(3, 4, 1)
    net.register_buffer("mask", torch.full((2, 2), -torch.inf))
    refuse_nonfinite(net)


def test_a_refused_model_stays_as_it_was():
    model = _chain().train()
    before = remember(model)
    with pytest.raises(ConfigError), torch.autocast("cpu"):
        prune(model, chain_inputs(), max_flops=0.5, data=[[{"image": 3}]])
    assert unchanged(model, before)


class Counting(nn.Module):
    """Writes into its buffers whenever it runs."""

    def __init__(self):
        super().__init__()
        self.a, self.norm, self.p = nn.Conv2d(3, 8, 1), nn.BatchNorm2d(8), nn.Conv2d(8, 2, 1)
        self.register_buffer("steps", torch.zeros(1))
        self.register_buffer("mean", torch.zeros(2))

    def forward(self, inputs):
        y = self.p(self.norm(self.a(torch.stack([each["image"] for each in inputs]))))
        self.steps += 1
        self.mean = 0.9 * self.mean + 0.1 * y.detach().mean((0, 2, 3))
        return {"loss": y.square().mean()} if self.training else y


def test_what_forwards_write_into_buffers_is_undone():
    model, images = Counting().eval(), [{"image": torch.rand(3, 8, 8)}]
    buffers = dict(model.named_buffers())
    plan(model, images, data=[images])
    prune(model, images, data=[images] * 3, importance="taylor", pruning_ratio=0.3)
    for name in ("steps", "mean"):
        assert dict(model.named_buffers())[name] is buffers[name]
        assert not buffers[name].any()
    assert model.norm.running_mean.numel() < 8


@pytest.mark.parametrize("importance", ["taylor", "activation"])
def test_data_that_the_model_cannot_take_is_said_so(importance):
    model, images = Counting().eval(), [{"image": torch.rand(3, 8, 8)}]
    with pytest.raises(PruningError, match=r"Counting does not run on the data \(RuntimeError: "):
        prune(
            model,
            images,
            data=[[{"image": torch.rand(8, 8, 3)}]],
            importance=importance,
            pruning_ratio=0.3,
        )
