"""Kinds of layers and operators around a conv: what is pruned is right, what stays says why."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.nn.utils import parametrizations, parametrize, spectral_norm, weight_norm
from torch.nn.utils import prune as masks
from torch.utils.checkpoint import checkpoint
from torchvision.ops.misc import FrozenBatchNorm2d

import blendprune
from tests.helpers.silent_channels import prune_the_dead, silence_half_of_every_group
from tests.helpers.small_net import small_inputs

WIDTH = 16
REENTRANT = (
    "pass use_reentrant=False to torch.utils.checkpoint: unknown operator "
    "CheckpointFunctionBackward"
)


class Between(nn.Module):
    """Conv ``a``, something, conv ``b``, predictor ``p``; a loss in training."""

    def __init__(self, run, **layers):
        super().__init__()
        self.between = run
        self.a = nn.Conv2d(3, WIDTH, 3, padding=1)
        for name, layer in layers.items():
            setattr(self, name, layer)
        self.b, self.p = nn.LazyConv2d(12, 1), nn.Conv2d(12, 2, 1)

    def forward(self, batched_inputs):
        x = torch.stack([each["image"] for each in batched_inputs])
        y = self.p(self.b(self.between(self, self.a(x))).relu())
        return {"loss": y.square().mean()} if self.training else y


def conv(inputs=WIDTH, outputs=WIDTH, **options):
    return nn.Conv2d(inputs, outputs, 3, padding=1, **options)


class LayerNorm2d(nn.LayerNorm):
    def forward(self, x):
        return super().forward(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class NormAct(nn.BatchNorm2d):
    def forward(self, x):
        return super().forward(x).relu()


class SamePad(nn.Conv2d):
    def forward(self, x):
        return super().forward(F.pad(x, (0, 1, 1, 0)))


class Doubled(nn.Module):
    def forward(self, weight):
        return 2 * weight


class Downsample(nn.Module):
    """AdelaiDet's smoothing: one fixed filter for every channel."""

    def __init__(self, channels):
        super().__init__()
        self.stride, self.pad = 2, nn.ReflectionPad2d(1)
        self.register_buffer("filt", torch.full((channels, 1, 3, 3), 1 / 9))

    def forward(self, x):
        return F.conv2d(self.pad(x), self.filt, stride=self.stride, groups=x.shape[1])


def frozen_norm():
    norm = FrozenBatchNorm2d(WIDTH)
    norm.running_mean.uniform_(-0.1, 0.1)
    norm.running_var.uniform_(0.5, 2)
    return norm


def gated(net, y):
    return y * net.gate(F.adaptive_avg_pool2d(y, 1)).sigmoid()


def half_gated(net, y):
    x, gate = y.chunk(2, 1)
    return x * gate.sigmoid()


def ghost(net, y):
    return torch.cat([y, net.cheap(y)], 1)[:, : 2 * WIDTH]


PRUNED = {
    "chunk": (
        lambda net, y: torch.cat([*y.chunk(2, 1), net.c(y.chunk(2, 1)[1])], 1),
        {"c": lambda: conv(8, 6)},
    ),
    "gated linear unit": (half_gated, {}),
    "gate of all channels": (gated, {"gate": lambda: nn.Conv2d(WIDTH, WIDTH, 1)}),
    "same padding": (lambda net, y: net.c(y).relu(), {"c": lambda: SamePad(WIDTH, 8, 2)}),
    "padding": (lambda net, y: F.pad(y, (1, 0, 0, 1)), {}),
    "maximum": (lambda net, y: torch.maximum(y, net.c(y)), {"c": lambda: conv()}),
    "minimum": (lambda net, y: torch.minimum(y, net.c(y)), {"c": lambda: conv()}),
    "norm and activation": (lambda net, y: net.norm(y), {"norm": lambda: NormAct(WIDTH)}),
    "torchvision's FrozenBatchNorm2d": (
        lambda net, y: net.norm(y),
        {"norm": lambda: frozen_norm()},
    ),
    "fixed filter": (lambda net, y: net.blur(y), {"blur": lambda: Downsample(WIDTH)}),
    "cheap copies": (ghost, {"cheap": lambda: conv(groups=WIDTH)}),
    "pixel shuffle": (lambda net, y: F.pixel_shuffle(y, 2), {}),
    "pixel unshuffle": (lambda net, y: F.pixel_unshuffle(y, 2), {}),
    "tokens": (
        lambda net, y: net.l(y.flatten(2).transpose(1, 2)).transpose(1, 2).unflatten(2, (8, 8)),
        {"l": lambda: nn.Linear(WIDTH, 10)},
    ),
    "layer scale": (
        lambda net, y: y + net.c(y) * net.scale,
        {"c": lambda: conv(), "scale": lambda: nn.Parameter(torch.rand(WIDTH, 1, 1))},
    ),
    "position embedding": (
        lambda net, y: net.c(y.relu() * net.where),
        {"c": lambda: conv(), "where": lambda: nn.Parameter(torch.rand(1, WIDTH, 8, 8))},
    ),
    "weight_norm": (lambda net, y: net.c(y), {"c": lambda: parametrizations.weight_norm(conv())}),
    "weight_norm, old": (lambda net, y: net.c(y), {"c": lambda: weight_norm(conv())}),
    "spectral_norm": (
        lambda net, y: net.c(y),
        {"c": lambda: parametrizations.spectral_norm(conv())},
    ),
    "spectral_norm, old": (lambda net, y: net.c(y), {"c": lambda: spectral_norm(conv())}),
    "masks": (lambda net, y: net.c(y), {"c": lambda: masks.l1_unstructured(conv(), "weight", 0.5)}),
    "linear with weight_norm": (
        lambda net, y: net.l(y.mean((2, 3)))[..., None, None],
        {"l": lambda: parametrizations.weight_norm(nn.Linear(WIDTH, 10))},
    ),
}


def between(kind, kinds):
    torch.manual_seed(0)
    run, layers = kinds[kind][:2]
    net = Between(run, **{name: make() for name, make in layers.items()})
    net(small_inputs())
    return net.eval()


def check_use(net):
    """Run, train one step, and load what was saved into the dense model again."""
    net.train()
    net(small_inputs())["loss"].backward()
    missing = [name for name, p in net.named_parameters() if p.requires_grad and p.grad is None]
    assert not missing
    torch.optim.SGD(net.parameters(), 0.1).step()
    net.eval()
    with torch.no_grad():
        assert net(small_inputs()).isfinite().all()


@pytest.mark.parametrize("kind", PRUNED)
def test_all_of_it_is_pruned_and_gives_what_it_gave(kind):
    net = between(kind, PRUNED)
    plan = blendprune.plan(net, small_inputs())
    assert {g.root: g.frozen_reason for g in plan.groups if g.frozen_reason} == {
        "p": "prediction layer"
    }
    dense = between(kind, PRUNED)
    dead = silence_half_of_every_group(net, small_inputs())
    with torch.no_grad():
        before = net(small_inputs())
    report = prune_the_dead(net, small_inputs(), dead)
    assert report.layers["a"]["after"] == WIDTH // 2
    with torch.no_grad():
        assert torch.allclose(net(small_inputs()), before, atol=1e-6)
    check_use(net)
    blendprune.restructure(dense, blendprune.structure_of(net))
    dense.load_state_dict(net.state_dict())
    with torch.no_grad():
        assert torch.equal(dense(small_inputs()), net(small_inputs()))


def recurrent(net, y):
    return net.r(y.flatten(2).transpose(1, 2))[0].transpose(1, 2).unflatten(2, (8, 8))


def attended(net, y):
    tokens = y.flatten(2).transpose(1, 2)
    return net.r(tokens, tokens, tokens)[0].transpose(1, 2).unflatten(2, (8, 8))


def shuffled(net, y):
    return y.view(1, 2, WIDTH // 2, 8, 8).transpose(1, 2).reshape(1, WIDTH, 8, 8)


def levels(net, y):
    """Sequences of two levels behind each other; what comes out takes the shape of the first."""
    both = torch.cat([x.flatten(2).transpose(1, 2) for x in (y, net.c(y))], 1)
    return net.l(both)[:, :64].transpose(1, 2).reshape(y.shape)


SOME = {
    "uneven split": (
        lambda net, y: net.c(y.split([4, 12], 1)[1]),
        {"c": lambda: conv(12, 8)},
        {"a": "split into parts of fixed widths by SplitWithSizesBackward0"},
    ),
    "slice": (
        lambda net, y: net.c(y[:, 2:6]),
        {"c": lambda: conv(4, 8)},
        {"a": "fixed channels are taken out by SliceBackward0"},
    ),
    "gate of one channel": (
        lambda net, y: net.c(y * y[:, 5:6].sigmoid()),
        {"c": lambda: conv()},
        {"a": "fixed channels are taken out by SliceBackward0"},
    ),
    "gate behind a conv": (
        lambda net, y: net.c(y * net.gate(y).sigmoid()),
        {"c": lambda: conv(), "gate": lambda: conv(WIDTH, 1)},
        {"gate": "other channels read it, too (MulBackward0)"},
    ),
    "sequences of levels": (
        levels,
        {"c": lambda: conv(), "l": lambda: nn.Linear(WIDTH, WIDTH)},
        dict.fromkeys("cl", "without some of its channels, the model fails behind l"),
    ),
    "channel shuffle": (
        lambda net, y: net.c(shuffled(net, y)),
        {"c": lambda: conv()},
        {"a": "its channels are split over dimensions by ViewBackward0"},
    ),
    "conv over channels": (
        lambda net, y: net.c(y * net.e(y.mean((2, 3))[:, None]).sigmoid()[:, 0, :, None, None]),
        {"c": lambda: conv(), "e": lambda: nn.Conv1d(1, 1, 3, padding=1)},
        {
            "a": "its channels cannot go one by one",
            "e": "other channels read it, too (MulBackward0)",
        },
    ),
    "mean of channels": (
        lambda net, y: net.c(y - y.mean(1, keepdim=True)),
        {"c": lambda: conv()},
        {"a": "unknown operator MeanBackward1"},
    ),
    "tied": (
        lambda net, y: net.d(net.c(y).relu()),
        {"c": lambda: conv(), "d": lambda: conv()},
        {
            "a": "shares a parameter with d (c)",
            "c": "shares a parameter with d",
            "d": "shares a parameter with c",
        },
    ),
    "reentrant checkpoint": (
        lambda net, y: net.d(checkpoint(net.c, y, use_reentrant=True)),
        {"c": lambda: conv(), "d": lambda: conv()},
        {"a": REENTRANT},
    ),
    "GRU": (
        recurrent,
        {"r": lambda: nn.GRU(WIDTH, 8, batch_first=True, bidirectional=True)},
        {"a": "r, a GRU, is not followed"},
    ),
    "LSTM": (
        recurrent,
        {"r": lambda: nn.LSTM(WIDTH, 8, batch_first=True)},
        {"a": "r, a LSTM, is not followed"},
    ),
    "attention": (
        attended,
        {"r": lambda: nn.MultiheadAttention(WIDTH, 2, batch_first=True)},
        {"a": "r, a MultiheadAttention, is not followed"},
    ),
    "parametrization": (
        lambda net, y: net.d(net.c(y)),
        {"c": lambda: conv(), "d": lambda: conv()},
        {"a": "c computes its weight", "c": "c computes its weight"},
    ),
}


@pytest.mark.parametrize("kind", SOME)
def test_what_cannot_go_stays_by_name_and_the_rest_is_pruned(kind):
    net = between(kind, SOME)
    if kind == "tied":
        net.d.weight = net.c.weight
    if kind == "parametrization":
        parametrize.register_parametrization(net.c, "weight", Doubled())
    plan = blendprune.plan(net, small_inputs())
    found = {g.root: g.frozen_reason for g in plan.groups if g.frozen_reason}
    expected = {"p": "prediction layer", **SOME[kind][2]}
    assert found.keys() == expected.keys()
    assert all(found[root].startswith(reason) for root, reason in expected.items())
    dead = silence_half_of_every_group(net, small_inputs())
    with torch.no_grad():
        before = net(small_inputs())
    report = prune_the_dead(net, small_inputs(), dead)
    assert report.layers["b"]["after"] == 6
    for root, reason in SOME[kind][2].items():
        width = report.layers[root]["before"]
        assert report.layers[root]["after"] == width
        words = f"{root}: all {width} channels stay: {reason}"
        assert any(note.startswith(words) for note in report.notes)
    with torch.no_grad():
        assert torch.allclose(net(small_inputs()), before, atol=1e-6)
    check_use(net)
