"""BasicBlock with norms of its own, against upstream's block in a process without the overlay."""

import copy
import functools
import io
import pickle
import types

import pytest
import torch
from detectron2.checkpoint import DetectionCheckpointer
from detectron2.layers import Conv2d, FrozenBatchNorm2d
from detectron2.modeling.backbone.resnet import BasicBlock, ResNet
from torch.nn import functional as F
from torch.nn.utils import stateless

import blendprune
from tests.helpers.se_block import SEBasicBlock

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


def test_separate_norms_stay_where_they_are_when_the_overlay_is_reverted():
    with blendprune.applied():
        block = _block((8, 16))
        norms = block.norm1, block.norm2, block.norm3
    assert (block.norm1, block.norm2, block.norm3) == norms
    assert isinstance(block, BasicBlock) and repr(block).startswith("BasicBlock(")
    block.load_state_dict(_block((8, 16)).state_dict())


def test_a_pickled_block_runs_in_a_process_without_the_overlay(fresh_python, overlay, tmp_path):
    block, x = _block((8, 16)).eval(), torch.randn(1, 8, 4, 4)
    torch.save((block, x, block(x)), tmp_path / "block.pth")
    code = (
        "import sys, torch; block, x, expected = torch.load(sys.argv[1], weights_only=False);"
        "assert torch.equal(block(x), expected) and block.norm1 is not None;"
        "print(type(block).__name__, *list(block.state_dict())[:2])"
    )
    done = fresh_python(code, tmp_path / "block.pth")
    assert done.stdout.split() == ["BasicBlock", "shortcut.weight", "shortcut.norm.weight"]


class WithoutNorm(BasicBlock):
    """Inherits forward and replaces a conv by one without a norm."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.conv2 = Conv2d(self.out_channels, self.out_channels, 3, padding=1)


class Scaled(BasicBlock):
    """Calls the forward that it extends."""

    def forward(self, x):
        return super().forward(x) * 2


def _built(kind):
    torch.manual_seed(0)
    return kind(8, 16, norm="BN")


@pytest.mark.parametrize("kind", [SEBasicBlock, WithoutNorm, Scaled])
def test_a_subclass_of_its_own_kind_computes_and_saves_what_it_does_upstream(kind):
    x = torch.randn(2, 8, 8, 8)
    upstream = _built(kind)
    expected = upstream(x)
    expected.sum().backward()
    with blendprune.applied():
        block = _built(kind)
        found = block(x)
        found.sum().backward()
        assert torch.equal(found, expected)
        assert [name for name, _ in block.named_parameters()] == [
            name for name, _ in upstream.named_parameters()
        ]
        for ours, theirs in zip(block.parameters(), upstream.parameters(), strict=True):
            assert torch.equal(ours.grad, theirs.grad)
        assert list(block.state_dict()) == list(upstream.state_dict())
        fork = {k.replace("conv1.norm", "norm1"): v for k, v in upstream.state_dict().items()}
        block.load_state_dict(fork)
        assert torch.equal(block(x), upstream(x))


def test_a_subclass_that_inherits_everything_has_separate_norms(overlay):
    class Named(BasicBlock):
        found = []

        def __init_subclass__(cls):
            cls.found.append(cls)

    block = Named(8, 16)
    assert block.norm3 is not None and block.conv1.norm is None
    assert isinstance(block, Named) and type(block).__name__ == "Named"
    assert Named.found == []


def test_a_conv_that_is_assigned_later_brings_its_own_norm(overlay):
    block, x = _block((8, 16)), torch.randn(2, 8, 8, 8)
    blendprune.revert()
    plain = _block((8, 16))
    for each in (block, plain):
        torch.manual_seed(1)
        each.conv1 = Conv2d(8, 16, 3, padding=1, bias=False, norm=torch.nn.BatchNorm2d(16, eps=1.0))
    assert torch.equal(block(x), plain(x))
    assert block.norm1.eps == 1.0
    assert list(block.state_dict()) == list(plain.state_dict())


def test_a_block_whose_class_knows_no_module_has_separate_norms(overlay):
    space = {"base": BasicBlock}  # as one that a LazyConfig's file defines
    exec("kind = type('Nameless', (base,), {})", space)
    assert hasattr(space["kind"](8, 16), "norm1")


def test_a_norm_that_a_conv_is_given_later_takes_the_place_of_the_old_one(overlay):
    block, x = _block((8, 16)), torch.randn(2, 8, 8, 8)
    blendprune.revert()
    plain = _block((8, 16))
    for each in (block, plain):
        each.conv2.norm = torch.nn.GroupNorm(4, 16)
    assert torch.equal(block(x), plain(x))
    assert list(block.state_dict()) == list(plain.state_dict())


def upstreams_way(block, x):
    out = block.conv2(F.relu_(block.conv1(x)))
    return F.relu_(out + (x if block.shortcut is None else block.shortcut(x)))


@pytest.mark.parametrize("channels", [(8, 16), (8, 8)])
def test_a_forward_set_on_a_block_finds_upstreams_structure(overlay, channels):
    blocks, x = [_block(channels) for _ in range(2)], torch.randn(2, 8, 8, 8)
    blocks[0].forward = types.MethodType(upstreams_way, blocks[0])
    # A wrapper of the block's own forward computes what that does.
    blocks[1].forward = functools.partial(blocks[1].forward)
    blendprune.revert()
    plain = _block(channels)
    expected = plain(x)
    for block in blocks:
        assert torch.equal(block(x), expected)
        block(x).sum().backward()
        assert all(p.grad is not None for p in block.parameters())
        assert list(block.state_dict()) == list(plain.state_dict())


def test_functional_call_takes_the_names_of_the_state_dict(overlay):
    model = torch.nn.Sequential(_block((8, 16)), SEBasicBlock(16, 16)).eval()
    x = torch.randn(1, 8, 4, 4)
    tensors = {k: v * 1.5 for k, v in model.state_dict().items()}
    expected = copy.deepcopy(model)
    expected.load_state_dict(tensors)
    call = torch.func.functional_call
    assert torch.equal(call(model, tensors, (x,)), expected(x))
    assert torch.equal(stateless.functional_call(model, tensors, (x,)), expected(x))
    halves = {k: v for k, v in tensors.items() if "norm" in k}, tensors
    assert torch.equal(call(model, halves[:1] + ({},), x), call(model, halves[0], x))
    named = {**dict(expected.named_parameters()), **dict(expected.named_buffers())}
    assert torch.equal(call(model, named, x, strict=True), expected(x))
    assert torch.equal(call(model[0], model[0].state_dict(), x), model[0](x))
    blendprune.revert()
    assert torch.func.functional_call is not call
    assert torch.equal(call(model, named, x), expected(x))


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
        copy.copy(block),
        torch.compile(block, backend="eager", fullgraph=True),
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
