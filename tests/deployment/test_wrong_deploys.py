"""Wrong calls of ``blendprune.deploy``: each gets one sentence."""

import threading

import pytest
import torch
from torch import nn

import blendprune
from blendprune.errors import BlendpruneError, DeployError
from tests.helpers.sentences import assert_sentence
from tests.helpers.small_net import SmallNet, residual, small_inputs
from tests.helpers.state import remember, unchanged
from tests.pruning.conftest import randomise_norms

CALLS = [
    ({"dtype": "fp16"}, "dtype is 'fp16': pass torch.float16, torch.bfloat16, or None for …"),
    ({"dtype": torch.int8}, "dtype is torch.int8: pass torch.float16, torch.bfloat16, or None …"),
    ({"channels_last": torch.channels_last}, "channels_last is …: pass True or False"),
    ({"compile": "fast"}, "compile is 'fast': pass True, False, or a mode (default, …)"),
    ({"compile": 1}, "compile is 1: pass True, False, or a mode (default, reduce-overhead, …)"),
    ({"example_inputs": None}, "the model carries no config …: pass example_inputs=[{…}]"),
    ({"example_inputs": [1]}, "example_inputs must be a list of dicts like {…}"),
    (
        {"example_inputs": [{"image": torch.zeros(5, 8, 8)}]},
        "SmallNet fails on the example inputs (RuntimeError: …): pass example_inputs like those …",
    ),
]


@pytest.mark.parametrize("arguments, sentence", CALLS, ids=[str(a)[:40] for a, _ in CALLS])
def test_an_invalid_argument_is_refused(arguments, sentence):
    model = residual()
    before = remember(model)
    with pytest.raises(BlendpruneError) as caught:
        blendprune.deploy(model, **{"example_inputs": small_inputs(), **arguments})
    assert_sentence(str(caught.value), sentence)
    assert unchanged(model, before)


def nan():
    model = residual()
    nn.init.constant_(model.a.weight, float("nan"))
    return model


def locked():
    model = residual()
    model.lock = threading.Lock()
    return model


def viewing():
    return SmallNet(lambda net, x: net.a(x).view(-1), a=nn.Conv2d(3, 4, 3)).eval()


def unseen_reader():
    """The conv's weight is read as a list, which no operator shows."""
    net = SmallNet(
        lambda net, x: net.p(net.norm(net.a(x)) * read(net)),
        a=nn.Conv2d(3, 4, 1),
        norm=nn.BatchNorm2d(4),
        p=nn.Conv2d(4, 2, 1),
    )
    return randomise_norms(net.eval())


def read(net):
    return net.a.weight.tolist()[0][0][0][0]


MODELS = [
    (1, "the model is a int: pass the nn.Module, …"),
    (residual().half(), "a.weight is float16: deploy the model in float32, and pass dtype= …"),
    (residual().to("meta"), "a.weight is on the meta device …: move the model with …"),
    (torch.jit.script(nn.Conv2d(3, 3, 1)), "the model is a torch.jit.ScriptModule, …"),
    (nan(), "a.weight holds … NaN or Inf …: load a checkpoint …"),
    (locked(), "SmallNet cannot be copied (TypeError: …): deploy it where copy.deepcopy(model) …"),
    (viewing(), "SmallNet fails in channels_last (RuntimeError: …): pass channels_last=False"),
    (unseen_reader(), "without its batch norms, p differs: code of the model reads …"),
]


@pytest.mark.parametrize("model, sentence", MODELS, ids=[sentence[:30] for _, sentence in MODELS])
def test_a_model_that_cannot_be_deployed_is_refused(model, sentence):
    with pytest.raises(BlendpruneError) as caught:
        blendprune.deploy(model, small_inputs())
    assert_sentence(str(caught.value), sentence)


def test_an_error_of_deployment_is_a_value_error():
    assert issubclass(DeployError, ValueError)
