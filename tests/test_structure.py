"""Structures: exact round trips, and hostile files."""

import copy

import pytest
import torch
from torch import nn

import blendprune
from blendprune import structure
from blendprune.errors import StructError
from tests.helpers.net import Net


def test_restructuring_reproduces_every_kind_of_layer():
    small, large = Net(4), Net(8)
    large.fc.weight.requires_grad_(False)
    blendprune.restructure(large, blendprune.structure_of(small))
    assert [(k, v.shape) for k, v in large.state_dict().items()] == [
        (k, v.shape) for k, v in small.state_dict().items()
    ]
    assert str(large) == str(small)
    assert large.tied.weight is large.fc.weight
    assert not large.fc.weight.requires_grad
    large.load_state_dict(small.state_dict())


def test_a_structure_is_its_own_fixed_point():
    net = Net()
    struct = blendprune.structure_of(net)
    blendprune.restructure(net, struct)
    assert blendprune.structure_of(net) == struct
    assert not structure.is_pruned(struct)


def test_a_structure_survives_weights_only_loading(tmp_path):
    struct = blendprune.structure_of(Net())
    torch.save(struct, tmp_path / "s.pth")
    assert torch.load(tmp_path / "s.pth", weights_only=True) == struct


@pytest.mark.parametrize("wrap", [nn.DataParallel, lambda model: model])
def test_wrapped_models_have_the_structure_of_what_they_wrap(wrap):
    net = Net()
    assert blendprune.structure_of(wrap(net)) == blendprune.structure_of(net)


def _changed(change):
    struct = copy.deepcopy(blendprune.structure_of(Net(4)))
    change(struct)
    return struct


HOSTILE = {
    "not a dict": lambda s: None,
    "no format": lambda s: s.pop("format"),
    "other version": lambda s: s.update(version=99),
    "modules is a list": lambda s: s.update(modules=[]),
    "config is a dict": lambda s: s.update(config={}),
    "size is text": lambda s: s.update(size="8"),
    "negative width": lambda s: s["modules"]["conv"].update(out_channels=-4),
    "zero width": lambda s: s["modules"]["conv"].update(weight=[0, 3, 3, 3]),
    "bool width": lambda s: s["modules"]["conv"].update(out_channels=True),
    "float width": lambda s: s["modules"]["conv"].update(out_channels=4.0),
    "huge width": lambda s: s["modules"]["conv"].update(weight=[1 << 30, 3, 3, 3]),
    "absurd width": lambda s: s["modules"]["conv"].update(weight=[1 << 80, 3, 3, 3]),
    "too many dims": lambda s: s["modules"]["conv"].update(weight=[1] * 50),
    "other dims": lambda s: s["modules"]["conv"].update(weight=[4, 3, 3]),
    "attribute that is no width": lambda s: s["modules"]["conv"].update(forward=3),
    "dunder attribute": lambda s: s["modules"]["conv"].update(__class__=3),
    "dict that is no width": lambda s: s["modules"]["conv"].update(_modules={"a": 1}),
    "list where an int belongs": lambda s: s["modules"]["conv"].update(out_channels=[4]),
    "int where a list belongs": lambda s: s["modules"]["conv"].update(weight=4),
    "unknown module": lambda s: s["modules"].update(other={"out_channels": 4}),
    "missing module": lambda s: s["modules"].pop("fc"),
    "missing tensor": lambda s: s["modules"]["conv"].pop("bias"),
    "name that is no text": lambda s: s["modules"].update({3: {}}),
    "endless name": lambda s: s["modules"].update({"a" * 10_000: {}}),
    "entry that is no dict": lambda s: s["modules"].update(conv=[4]),
    "contradiction": lambda s: s["modules"]["conv"].update(out_channels=3),
    "norm of two widths": lambda s: s["modules"]["norm"].update(bias=[3]),
    "other architecture": lambda s: s.update(meta_architecture="BlendMask"),
}


@pytest.mark.parametrize("kind", HOSTILE)
def test_a_hostile_structure_is_refused_and_changes_nothing(kind):
    struct = None if kind == "not a dict" else _changed(HOSTILE[kind])
    net = Net(8)
    before = copy.deepcopy(net.state_dict())
    text = str(net)
    with pytest.raises(StructError) as error:
        blendprune.restructure(net, struct)
    assert len(str(error.value)) < 600
    assert str(net) == text
    assert all(torch.equal(before[k], v) for k, v in net.state_dict().items())
