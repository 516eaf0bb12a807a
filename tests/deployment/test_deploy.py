"""The deployed copy gives what the model gives, and leaves it alone."""

import copy

import pytest
import torch
from detectron2.layers import FrozenBatchNorm2d
from torch import nn

from tests.helpers.deployed import assert_same_results, predictions_of_both, relative_difference
from tests.helpers.slow import slow_but
from tests.helpers.small_blendmask import PANOPTIC
from tests.helpers.small_net import SmallNet, small_inputs
from tests.helpers.state import remember, unchanged
from tests.zoo import tensors_of

DENSE = ("mask-c4", "keypoint", "cascade", "rpn-c4", "semantic", "panoptic", "modulated")
PRUNED = ("box-fpn-r18", "mask-fpn", "retinanet", "syncbn")
BLENDMASKS = {
    "gn": (),
    "bn": ("MODEL.FCOS.NORM", "BN", "MODEL.RESNETS.NORM", "BN", "MODEL.BASIS_MODULE.NORM", "BN"),
    "syncbn": ("MODEL.FCOS.NORM", "SyncBN", "MODEL.RESNETS.NORM", "SyncBN"),
    "naive-gn": ("MODEL.FCOS.NORM", "NaiveGN", "MODEL.FCOS.USE_DEFORMABLE", True),
    "none": ("MODEL.FCOS.NORM", "none", "MODEL.BASIS_MODULE.NORM", "GN")
    + ("MODEL.BASIS_MODULE.CONVS_DIM", 32),
    "panoptic": PANOPTIC,
}


def halve(model):
    import blendprune

    blendprune.prune(model, max_flops=0.5, importance="magnitude", rounds=1)


def assert_equal_results(model, deployed, images):
    with torch.no_grad():
        assert_same_results(model(images), deployed(images))
    both = predictions_of_both(model, deployed, images)
    assert both
    for name, pairs in both.items():
        assert all(relative_difference(*pair) < 2e-4 for pair in pairs), name


def norms_of(model):
    kinds = (nn.modules.batchnorm._BatchNorm, FrozenBatchNorm2d)
    return [name for name, module in model.named_modules() if isinstance(module, kinds)]


@pytest.mark.parametrize("family", slow_but(DENSE, "mask-c4", "cascade", "semantic"))
def test_a_dense_model_of_the_zoo_gives_the_same_without_batch_norms(overlay, zoo_model, family):
    check_zoo_model(overlay, *zoo_model(family))


@pytest.mark.parametrize("family", slow_but(PRUNED, "mask-fpn", "retinanet"))
def test_a_pruned_model_of_the_zoo_gives_the_same_without_batch_norms(overlay, zoo_model, family):
    check_zoo_model(overlay, *zoo_model(family, prune=halve))


def check_zoo_model(overlay, model, images):
    before = remember(model)
    deployed = overlay.deploy(model)
    assert_equal_results(model, deployed, images)
    assert norms_of(model) and not norms_of(deployed)
    assert unchanged(model, before)


@pytest.mark.parametrize("norms", slow_but(BLENDMASKS, "bn", "panoptic", "naive-gn"))
def test_a_blendmask_gives_the_same(registered, blendmask, norms):
    prune = halve if norms in ("gn", "bn") else None
    model, images = blendmask(*BLENDMASKS[norms], prune=prune)
    before = remember(model)
    deployed = registered.deploy(model)
    assert_equal_results(model, deployed, images)
    # The auxiliary head runs in training only; per-level norms cannot go into a shared conv.
    inside = ("basis_module.seg_head", "proposal_generator.fcos_head")
    assert all(name.startswith(inside) for name in norms_of(deployed))
    assert unchanged(model, before)


def test_a_copy_is_in_eval_mode_without_gradients_and_in_channels_last(overlay, zoo_model):
    model, images = zoo_model("retinanet")
    deployed = overlay.deploy(model.train())
    assert model.training and not any(module.training for module in deployed.modules())
    assert not any(p.requires_grad for p in deployed.parameters())
    assert not any(x.requires_grad for x in tensors_of(deployed(images)))
    convs = [m for m in deployed.modules() if isinstance(m, nn.Conv2d)]
    assert all(m.weight.is_contiguous(memory_format=torch.channels_last) for m in convs)
    plain = overlay.deploy(model, channels_last=False)
    assert all(p.is_contiguous() for p in plain.parameters())


def test_a_model_under_model_prune_gives_detections(overlay, zoo_model):
    model, images = zoo_model("retinanet")
    model.model_prune = True
    assert "instances" in overlay.deploy(model)(images)[0]
    assert model.model_prune


def test_a_wrapped_model_is_deployed_without_its_wrapper(overlay, zoo_model):
    model, images = zoo_model("rpn-c4")
    deployed = overlay.deploy(nn.DataParallel(model))
    assert type(deployed) is type(model)


def test_a_deployed_model_can_be_copied_and_pickled(overlay, zoo_model, tmp_path):
    model, images = zoo_model("box-fpn-r18")
    for dtype in (None, torch.bfloat16):
        deployed = overlay.deploy(model, dtype=dtype)
        torch.save(deployed, tmp_path / "deployed.pth")
        loaded = torch.load(tmp_path / "deployed.pth", weights_only=False)
        expected = list(tensors_of(deployed(images)))
        for other in (loaded, copy.deepcopy(deployed)):
            found = list(tensors_of(other(images)))
            assert all(torch.equal(a, b) for a, b in zip(expected, found, strict=True))


def test_batch_norms_of_a_model_without_an_architecture_are_folded(overlay):
    net = SmallNet(
        lambda net, x: {"map": net.head(net.body(x).relu())},
        body=nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 8, 1)),
        head=nn.Conv2d(8, 2, 1),
    ).eval()
    nn.init.uniform_(net.body[1].running_mean)
    nn.init.uniform_(net.body[1].running_var, 0.5, 2)
    deployed = overlay.deploy(net, small_inputs())
    assert not norms_of(deployed)
    expected, found = (each(small_inputs())["map"] for each in (net, deployed))
    assert torch.allclose(expected, found, atol=1e-5)


@pytest.fixture
def compiled(monkeypatch):
    """What is compiled: functions and modes; without a compiler for the machine, which takes
    minutes."""
    calls, compile = [], torch.compile

    def count(function, mode):
        calls.append((function, mode))
        return compile(function, backend="eager")

    monkeypatch.setattr(torch, "compile", count)
    return calls


@pytest.mark.slow
def test_the_core_is_compiled_and_gives_the_same(registered, blendmask, compiled):
    model, images = blendmask("MODEL.PANOPTIC_FPN.COMBINE.ENABLED", False)
    deployed = registered.deploy(model, compile="max-autotune")
    generator = deployed.proposal_generator
    parts = {deployed.backbone, generator.fcos_head, deployed.basis_module}
    assert {function.__closure__[0].cell_contents.__self__ for function, _ in compiled} == parts
    assert {mode for _, mode in compiled} == {"max-autotune"}
    with torch.no_grad():
        assert_same_results(model(images), deployed(images))
    registered.deploy(model, compile=True)
    assert compiled[-1][1] is None


def test_models_of_one_class_are_compiled_each_for_itself(overlay, compiled):
    """PyTorch stops after so many recompilations of a function, which models must not share."""
    torch._dynamo.reset()
    with torch._dynamo.config.patch(error_on_recompile=True), torch.no_grad():
        for width in 8, 16:
            net = SmallNet(lambda net, x: {"map": net.body(x)}, body=nn.Conv2d(3, width, 3)).eval()
            overlay.deploy(net, small_inputs(), compile=True)(small_inputs())
    assert len(compiled) == 2
