"""detectron2's transformers, small, in a Mask R-CNN: heads and MLPs go, the stream stays."""

import itertools

import pytest
import torch

import blendprune
from blendprune.modeling.attention import is_attention
from blendprune.pruning import prune
from blendprune.pruning.graph.outputs import head_outputs
from tests.helpers.slow import slow_but
from tests.helpers.small_transformers import FAMILIES, SIZE, config_of
from tests.zoo import build_dense, prune_and_use, training_batch


@pytest.fixture(autouse=True)
def overlay():
    with blendprune.applied():
        yield


@pytest.fixture(params=FAMILIES)
def config(request):
    return config_of(request.param)


@pytest.fixture
def dense(config):
    torch.manual_seed(0)
    return build_dense(config, SIZE)


def heads(model):
    return [module.num_heads for module in model.modules() if is_attention(module)]


def streams(model):
    """Linears that add to what attention reads; nothing reads MViT's last block again."""
    names = [name for name, _ in model.named_modules() if name.endswith(("attn.proj", "mlp.fc2"))]
    return names[:-2]


def test_it_is_pruned_run_trained_and_reloaded(config):
    torch.manual_seed(0)
    assert prune_and_use(config, SIZE, 0.6)["result"] == "green"


@pytest.mark.parametrize("config", slow_but(FAMILIES, "mvit"), indirect=True)
def test_whole_heads_go_and_the_stream_stays(dense):
    images = [{"image": 255 * torch.rand(3, SIZE, SIZE)}]
    before = heads(dense)
    wide = {name: dense.get_submodule(name).out_features for name in streams(dense)}
    prune(dense, images, pruning_ratio=0.5, importance="magnitude", global_pruning=False)
    assert heads(dense) == [count // 2 for count in before]
    assert {name: dense.get_submodule(name).out_features for name in wide} == wide


@pytest.mark.parametrize(
    "config, importance",
    [
        pytest.param(family, score, marks=[pytest.mark.slow] if number else [])
        for number, (family, score) in enumerate(
            zip(FAMILIES, itertools.cycle(["taylor", "fisher", "obs"]))
        )
    ],
    indirect=["config"],
)
def test_scores_from_data_and_reconstruction_hold(config, dense, importance):
    batch = training_batch(config, SIZE)
    images = [{"image": batch[0]["image"]}]
    wanted = [x.detach() for x in head_outputs(dense, images)]
    again = build_dense(config, SIZE)
    again.load_state_dict(dense.state_dict())
    errors = []
    for model, reconstruct in ((dense, False), (again, True)):
        prune(model, images, data=[batch], max_flops=0.7, importance=importance,
              reconstruct=reconstruct)  # fmt: skip
        found = head_outputs(model, images)
        errors.append(sum(float((x - y).square().sum()) for x, y in zip(wanted, found)))
    assert errors[1] < errors[0]
