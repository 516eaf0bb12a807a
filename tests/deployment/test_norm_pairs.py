"""Which norms are folded, and which stay because something else depends on them."""

import pytest
import torch
import torch.nn.functional as F
from detectron2.layers import Conv2d, FrozenBatchNorm2d, NaiveSyncBatchNorm
from torch import nn
from torchvision.ops.misc import FrozenBatchNorm2d as TorchvisionFrozenBatchNorm2d

from blendprune.deployment.folding import fold, strip
from blendprune.deployment.norm_pairs import find_norm_pairs
from blendprune.modeling.operators.deform_conv import DeformConv, ModulatedDeformConv
from tests.helpers.small_net import SmallNet, small_inputs
from tests.pruning.conftest import randomise_norms

NORMS = (nn.BatchNorm2d, nn.SyncBatchNorm, NaiveSyncBatchNorm, FrozenBatchNorm2d)
NORMS += (TorchvisionFrozenBatchNorm2d,)
CONVS = {
    "plain": lambda: nn.Conv2d(8, 8, 3, bias=False),
    "bias": lambda: nn.Conv2d(8, 8, 3),
    "grouped": lambda: nn.Conv2d(8, 8, 3, groups=2, stride=2),
    "depthwise": lambda: nn.Conv2d(8, 8, 3, groups=8, padding=1, padding_mode="reflect"),
    "transposed": lambda: nn.ConvTranspose2d(8, 8, 2, stride=2, bias=False),
    "transposed, grouped": lambda: nn.ConvTranspose2d(8, 8, 2, groups=2),
}


def pairs_of(net):
    randomise_norms(net.eval())
    return find_norm_pairs(net, lambda: net(small_inputs()))


def fold_all(net):
    """Fold what can be folded; give the largest change, and how many norms were folded."""
    pairs = pairs_of(net)
    with torch.no_grad():
        before = net(small_inputs())
        for pair in pairs:
            fold(pair)
        for module in net.modules():
            strip(module)
        return (net(small_inputs()) - before).abs().max(), len(pairs)


def net_of(run, **layers):
    return SmallNet(run, stem=nn.Conv2d(3, 8, 1), **layers)


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("conv", CONVS)
def test_every_norm_folds_into_every_conv(conv, norm):
    net = net_of(lambda net, x: net.norm(net.conv(net.stem(x))), conv=CONVS[conv](), norm=norm(8))
    change, count = fold_all(net)
    assert change < 1e-5 and count == 1
    assert type(net.norm) is nn.Identity and not list(net.norm.state_dict())


@pytest.mark.parametrize("kind", [DeformConv, ModulatedDeformConv])
def test_a_norm_inside_a_deformable_conv_folds(kind):
    def run(net, x):
        x = net.stem(x)
        offset = net.offset(x)
        mask = () if kind is DeformConv else (offset[:, :9].sigmoid(),)
        return net.conv(x, offset, *mask)

    conv = kind(8, 8, 3, padding=1, bias=False, norm=nn.BatchNorm2d(8), activation=F.relu)
    change, count = fold_all(net_of(run, conv=conv, offset=nn.Conv2d(8, 18, 3, padding=1)))
    assert change < 1e-5 and count == 1


def test_a_norm_and_an_activation_inside_detectron2s_conv_fold():
    conv = Conv2d(8, 8, 3, norm=nn.BatchNorm2d(8), activation=F.relu)
    net = net_of(lambda net, x: net.conv(net.stem(x)), conv=conv)
    change, count = fold_all(net)
    assert change < 1e-5 and count == 1
    assert net.conv.norm is None


def test_a_norm_without_weights_folds():
    norm = nn.BatchNorm2d(8, affine=False)
    change, count = fold_all(net_of(lambda net, x: net.norm(net.stem(x)), norm=norm))
    assert change < 1e-5 and count == 1


def test_a_conv_that_runs_on_two_levels_with_one_norm_folds():
    def run(net, x):
        levels = net.stem(x), net.stem(x[..., ::2, ::2])
        return torch.cat([net.norm(net.conv(level)).flatten(2) for level in levels], 2)

    net = net_of(run, conv=nn.Conv2d(8, 8, 1), norm=nn.BatchNorm2d(8))
    change, count = fold_all(net)
    assert change < 1e-5 and count == 1


def two_norms(net, x):
    levels = net.stem(x), net.stem(x[..., ::2, ::2])
    found = [norm(net.conv(level)) for norm, level in zip(net.norms, levels)]
    return found[0].sum() + found[1].sum()


KEPT = {
    "one norm per level": lambda: net_of(
        two_norms,
        conv=nn.Conv2d(8, 8, 1),
        norms=nn.ModuleList([nn.BatchNorm2d(8), nn.BatchNorm2d(8)]),
    ),
    "another reader": lambda: net_of(
        lambda net, x: net.norm(net.stem(x)) + net.stem(x), norm=nn.BatchNorm2d(8)
    ),
    "another reader of the same map": lambda: net_of(
        lambda net, x: (lambda y: net.norm(y) + y)(net.stem(x)), norm=nn.BatchNorm2d(8)
    ),
    "an operator between": lambda: net_of(
        lambda net, x: net.norm(net.stem(x).relu_()), norm=nn.BatchNorm2d(8)
    ),
    "one norm for two convs": lambda: net_of(
        lambda net, x: net.norm(net.stem(x)) + net.norm(net.other(x)),
        other=nn.Conv2d(3, 8, 1),
        norm=nn.BatchNorm2d(8),
    ),
    "a norm that reads an image, too": lambda: SmallNet(
        lambda net, x: net.norm(net.conv(x)) + net.norm(x),
        conv=nn.Conv2d(3, 3, 1),
        norm=nn.BatchNorm2d(3),
    ),
    "a weight that is read elsewhere": lambda: net_of(
        lambda net, x: net.norm(net.stem(x)) + F.conv2d(x, net.stem.weight),
        norm=nn.BatchNorm2d(8),
    ),
    "a norm whose bias is read elsewhere": lambda: net_of(
        lambda net, x: net.norm(net.stem(x)) + net.norm.bias.sum(), norm=nn.BatchNorm2d(8)
    ),
    "the statistics of the batch": lambda: net_of(
        lambda net, x: net.norm(net.stem(x)), norm=nn.BatchNorm2d(8, track_running_stats=False)
    ),
    "a subclass that does more": lambda: net_of(
        lambda net, x: net.norm(net.stem(x)), norm=NormAndRelu(8)
    ),
    "instance norm": lambda: net_of(
        lambda net, x: net.norm(net.stem(x)), norm=nn.InstanceNorm2d(8)
    ),
    "a computed weight": lambda: net_of(
        lambda net, x: net.norm(net.conv(net.stem(x))),
        conv=nn.utils.parametrizations.weight_norm(nn.Conv2d(8, 8, 1)),
        norm=nn.BatchNorm2d(8),
    ),
    "a standardised weight": lambda: net_of(
        lambda net, x: net.norm(net.conv(net.stem(x))),
        conv=StandardisedConv(8, 8, 1),
        norm=nn.BatchNorm2d(8),
    ),
    "a hook": lambda: net_of(
        lambda net, x: net.norm(net.stem(x)), norm=with_hook(nn.BatchNorm2d(8))
    ),
    "two convs of one weight": lambda: net_of(
        lambda net, x: net.norm(net.stem(x)) + net.second(tied(net)(x)),
        twin=nn.Conv2d(3, 8, 1),
        norm=nn.BatchNorm2d(8),
        second=nn.BatchNorm2d(8),
    ),
}


class NormAndRelu(nn.BatchNorm2d):
    def forward(self, x):
        return super().forward(x).relu()


class StandardisedConv(nn.Conv2d):
    def forward(self, x):
        weight = (self.weight - self.weight.mean()) / self.weight.std()
        return self._conv_forward(x, weight, self.bias)


def with_hook(module):
    module.register_forward_hook(lambda module, inputs, output: output + 1)
    return module


def tied(net):
    net.twin.weight = net.stem.weight
    return net.twin


@pytest.mark.parametrize("why", KEPT)
def test_a_norm_stays(why):
    net = KEPT[why]()
    net(small_inputs())
    assert pairs_of(net) == []
