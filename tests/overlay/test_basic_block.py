"""BasicBlock with norms of its own, against upstream's block in a process without the overlay."""

import copy
import io
import pickle

import pytest
import torch
from detectron2.checkpoint import DetectionCheckpointer
from detectron2.layers import FrozenBatchNorm2d
from detectron2.modeling.backbone.resnet import BasicBlock, ResNet

import blendprune

KINDS = [
    (channels, stride, norm)
    for channels in ((8, 16), (8, 8))
    for stride in (1, 2)
    for norm in ("BN", "FrozenBN", "SyncBN", "")
    if channels[0] != channels[1] or stride == 1
]


def _block(channels, stride=1, norm="BN"):
    torch.manual_seed(0)
    block = BasicBlock(*channels, stride=stride, norm=norm)
    for tensor in block.state_dict().values():
        if tensor.dtype.is_floating_point and tensor.dim() == 1:
            tensor.uniform_(0.5, 1.5)
    return block


@pytest.mark.parametrize("channels, stride, norm", KINDS)
@pytest.mark.parametrize("training", [True, False])
def test_outputs_and_gradients_are_bit_equal_to_upstream(channels, stride, norm, training):
    x = torch.randn(2, channels[0], 8, 8)
    upstream = _block(channels, stride, norm).train(training)
    expected = upstream(x)
    expected.sum().backward()
    gradients = [p.grad for p in upstream.parameters()]
    with blendprune.applied():
        block = _block(channels, stride, norm).train(training)
        found = block(x)
        found.sum().backward()
        assert torch.equal(found, expected)
        for ours, theirs in zip(block.parameters(), gradients, strict=True):
            assert torch.equal(ours.grad, theirs)


@pytest.mark.parametrize("channels, stride, norm", KINDS)
def test_state_dict_has_upstreams_keys_order_and_versions(channels, stride, norm):
    upstream = _block(channels, stride, norm).state_dict()
    with blendprune.applied():
        ours = _block(channels, stride, norm).state_dict()
    assert list(ours) == list(upstream)
    assert ours._metadata == upstream._metadata
    assert all(torch.equal(ours[key], upstream[key]) for key in upstream)


def test_norms_are_modules_of_the_block(overlay):
    block = _block((8, 16), 2)
    names = [name for name, _ in block.named_children()]
    assert names == ["shortcut", "norm3", "conv1", "norm1", "conv2", "norm2"]
    assert block.conv1.norm is block.conv2.norm is block.shortcut.norm is None
    assert not hasattr(_block((8, 8)), "norm3")


def test_parameters_keep_upstreams_order_so_that_optimizers_resume(overlay):
    ours = [tuple(p.shape) for p in _block((8, 16)).parameters()]
    blendprune.revert()
    assert ours == [tuple(p.shape) for p in _block((8, 16)).parameters()]


def test_names_of_hand_patched_forks_load(overlay):
    source, target = _block((8, 16), 2), _block((8, 16), 2)
    fork = {k.replace("conv1.norm", "norm1"): v + 1 for k, v in source.state_dict().items()}
    fork = {k.replace("conv2.norm", "norm2"): v for k, v in fork.items()}
    fork = {k.replace("shortcut.norm", "norm3"): v for k, v in fork.items()}
    target.load_state_dict(fork)
    assert all(torch.equal(v, source.state_dict()[k] + 1) for k, v in target.state_dict().items())


def test_a_block_built_before_applying_keeps_working_and_loading():
    block = _block((8, 16)).eval()
    x = torch.randn(1, 8, 4, 4)
    expected = block(x)
    weights = block.state_dict()
    with blendprune.applied():
        assert torch.equal(block(x), expected)
        block.load_state_dict(_block((8, 16)).state_dict())
        fork = {k.replace("conv1.norm", "norm1"): v for k, v in weights.items()}
        block.load_state_dict(fork)
        assert torch.equal(block(x), expected)


def test_a_block_that_outlives_the_overlay_keeps_its_norms():
    x = torch.randn(1, 8, 4, 4)
    with blendprune.applied():
        block = _block((8, 16)).eval()
        twin = copy.deepcopy(block)
        expected = block(x)
    assert torch.equal(block(x), expected)
    assert torch.equal(twin(x), expected)
    assert list(block.state_dict()) == list(_block((8, 16)).state_dict())


@pytest.mark.parametrize("channels", [(8, 16), (8, 8)])
def test_script_trace_pickle_and_copy_keep_the_norms(overlay, channels):
    block = _block(channels).eval()
    x = torch.randn(1, 8, 6, 6)
    expected = block(x)
    buffer = io.BytesIO()
    torch.save(block, buffer)
    buffer.seek(0)
    for other in (
        torch.jit.script(block),
        torch.jit.trace(block, x),
        pickle.loads(pickle.dumps(block)),
        torch.load(buffer, weights_only=False),
        copy.deepcopy(block),
    ):
        assert torch.equal(other(x), expected)


def test_freezing_reaches_the_separate_norms(overlay):
    block = _block((8, 16))
    x = torch.randn(1, 8, 4, 4)
    expected = block.eval()(x)
    block.freeze()
    assert not any(p.requires_grad for p in block.parameters())
    assert all(isinstance(n, FrozenBatchNorm2d) for n in (block.norm1, block.norm2, block.norm3))
    assert torch.allclose(block(x), expected, atol=1e-6)
    frozen = block.state_dict()
    blendprune.revert()
    assert list(frozen) == list(_block((8, 16)).freeze().state_dict())


def _resnet18(norm="FrozenBN"):
    from detectron2.config import get_cfg
    from detectron2.modeling.backbone import build_backbone

    cfg = get_cfg()
    cfg.MODEL.RESNETS.DEPTH = 18
    cfg.MODEL.RESNETS.RES2_OUT_CHANNELS = 64
    cfg.MODEL.RESNETS.NORM = norm
    cfg.MODEL.RESNETS.OUT_FEATURES = ["res2", "res3", "res4", "res5"]
    cfg.MODEL.BACKBONE.NAME = "build_resnet_backbone"
    cfg.MODEL.BACKBONE.FREEZE_AT = 2
    cfg.MODEL.DEVICE = "cpu"
    model = build_backbone(cfg)
    assert isinstance(model, ResNet)
    return model


def _random_weights(state):
    return {k: torch.rand_like(v) + 0.5 for k, v in state.items() if v.dtype.is_floating_point}


@pytest.mark.parametrize("form", ["pth", "pkl"])
def test_imagenet_weights_restore_every_norm(tmp_path, form):
    weights = _random_weights(_resnet18().state_dict())
    path = tmp_path / f"R-18.{form}"
    if form == "pth":
        torch.save({"model": weights}, path)
    else:
        arrays = {k: v.numpy() for k, v in weights.items()}
        data = {"model": arrays, "__author__": "torchvision", "matching_heuristics": True}
        path.write_bytes(pickle.dumps(data))
    with blendprune.applied():
        model = _resnet18()
        DetectionCheckpointer(model).load(str(path))
        loaded = model.state_dict()
    assert loaded.keys() == weights.keys()
    assert all(torch.equal(loaded[key], weights[key]) for key in weights)


def test_a_checkpoint_written_under_the_overlay_loads_into_an_unpatched_model(tmp_path):
    x = torch.randn(1, 3, 32, 32)
    with blendprune.applied():
        model = _resnet18("BN")
        DetectionCheckpointer(model, str(tmp_path)).save("model")
        expected = model.eval()(x)
    plain = _resnet18("BN")
    DetectionCheckpointer(plain).load(str(tmp_path / "model.pth"))
    found = plain.eval()(x)
    assert all(torch.equal(found[key], expected[key]) for key in expected)
