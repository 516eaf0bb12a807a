"""Structures: exact round trips, and hostile files."""

import copy

import pytest
import torch
from torch import nn

import blendprune
from blendprune import structure
from blendprune.errors import StructError
from tests.helpers.net import Net


def test_a_structure_holds_every_width_and_shape():
    net = Net(4)
    shape = {"weight": [4], "bias": [4]}
    linear = {"in_features": 8, "out_features": 4, "weight": [4, 8], "bias": [4]}
    size = sum(value.numel() for value in net.state_dict().values())
    conv = {"in_channels": 3, "out_channels": 4, "groups": 1, "weight": [4, 3, 3, 3], "bias": [4]}
    depthwise = {"in_channels": 4, "out_channels": 4, "groups": 4, "weight": [4, 1, 3, 3]}
    up = {"in_channels": 4, "out_channels": 8, "groups": 1, "weight": [4, 8, 2, 2], "bias": [8]}
    assert blendprune.structure_of(net) == {
        "format": "blendprune.struct",
        "version": 1,
        "meta_architecture": "Net",
        "config": "",
        "dense_size": size,
        "size": size,
        "modules": {
            "": {"scale": [4]},
            "conv": conv,
            "depthwise": {**depthwise, "bias": [4]},
            "norm": {"num_features": 4, **shape, "running_mean": [4], "running_var": [4]},
            "group_norm": {"num_groups": 1, "num_channels": 4, **shape},
            "up": up,
            "fc": linear,
            "tied": linear,
        },
    }


class Other(nn.Module):
    """Attributes and tensors of every other kind: what has a width, and what has none."""

    in_channels = True  # no int

    def __init__(self, width=8):
        super().__init__()
        self.layer_norm = nn.LayerNorm(width)
        self._out_feature_channels = {"p3": width, "p4": 2 * width}
        self.num_heads = width // 4
        self.kernel_size = 3
        self.register_buffer("kept", torch.arange(width))
        self.register_buffer("passing", torch.zeros(width), persistent=False)
        self.register_buffer("number", torch.tensor(1))
        self.register_parameter("none", None)

    def get_extra_state(self):
        return {"no": "tensor"}

    def set_extra_state(self, state):
        pass


def test_a_structure_holds_no_other_attribute_and_no_tensor_outside_the_state():
    struct = blendprune.structure_of(Other(4))
    assert struct["modules"] == {
        "": {"num_heads": 1, "_out_feature_channels": {"p3": 4, "p4": 8}, "kept": [4]},
        "layer_norm": {"normalized_shape": [4], "weight": [4], "bias": [4]},
    }
    # Weights and biases, the buffer, and the number.
    assert struct["size"] == 4 + 4 + 4 + 1


def test_restructuring_reaches_dicts_tuples_and_buffers():
    model = Other(8)
    blendprune.restructure(model, blendprune.structure_of(Other(4)))
    assert model._out_feature_channels == {"p3": 4, "p4": 8}
    assert model.layer_norm.normalized_shape == (4,)
    assert type(model.layer_norm.weight) is nn.Parameter
    assert model.num_heads == 1
    # The leading slice of what was there.
    assert model.kept.tolist() == [0, 1, 2, 3]
    assert "kept" in dict(model.named_buffers()) and model.passing.numel() == 8


def test_the_dict_of_a_structure_is_not_the_one_of_the_model():
    model, struct = Other(8), blendprune.structure_of(Other(4))
    blendprune.restructure(model, struct)
    model._out_feature_channels["p3"] = 1
    assert struct["modules"][""]["_out_feature_channels"]["p3"] == 4
    blendprune.structure_of(model)["modules"][""]["_out_feature_channels"]["p4"] = 1
    assert model._out_feature_channels["p4"] == 8


def test_what_keeps_its_shape_stays_the_same_tensor():
    model = Net(8)
    before = dict(model.named_parameters())
    blendprune.restructure(model, blendprune.structure_of(Net(8)))
    assert all(value is before[name] for name, value in model.named_parameters())


def test_a_structure_remembers_the_dense_size_and_the_config(blendmask_cfg):
    model, cfg = Net(8), blendmask_cfg()
    assert structure.is_remembered(model) is False
    structure.remember(model, cfg)
    assert structure.is_remembered(model) is True
    blendprune.restructure(model, blendprune.structure_of(Net(4)))
    struct = blendprune.structure_of(model)
    assert struct["config"] == cfg.dump()
    assert struct["size"] == structure.state_size(Net(4))
    assert struct["dense_size"] == structure.state_size(Net(8))
    assert structure.is_pruned(struct)


class Block(nn.Module):
    """A block with norms of its own, as the overlay builds it; ``given``: conv1 has its norm."""

    def __init__(self, given=False):
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(3, 4, 1), nn.Conv2d(4, 4, 1)
        self.conv1.norm = nn.BatchNorm2d(4) if given else None
        self.conv2.norm = self.shortcut = None
        self.norm1, self.norm2, self.norm3 = (nn.BatchNorm2d(4) for _ in range(3))


def test_norms_of_a_block_have_the_names_of_upstream():
    model = nn.ModuleDict({"res2": Block()})
    names = {module: name for name, module in structure.named_modules(model)}
    block = model["res2"]
    assert names[block.norm1] == "res2.conv1.norm"
    assert names[block.norm2] == "res2.conv2.norm"
    # It has no shortcut.
    assert names[block.norm3] == "res2.norm3"
    assert names[block.conv1] == "res2.conv1" and names[block] == "res2"
    block = Block(given=True)
    assert {module: name for name, module in structure.named_modules(block)}[block.norm1] == "norm1"


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


def _struct(**values):
    """A well-formed structure without modules."""
    struct = {"format": "blendprune.struct", "version": 1, "meta_architecture": "Net"}
    return {**struct, "config": "", "dense_size": 1, "size": 1, "modules": {}, **values}


def _conv(**values):
    return _struct(modules={"conv": values})


WELL_FORMED = {
    "empty": _struct(),
    "longest name": _struct(modules={"a" * 512: {}}),
    "most modules": _struct(modules={str(number): {} for number in range(100_000)}),
    "largest size": _struct(size=(1 << 62) - 1, dense_size=(1 << 62) - 1),
    "most dims": _conv(weight=[1] * 8),
    "largest width": _conv(out_channels=(1 << 31) - 1, weight=[(1 << 31) - 1]),
    "no dims": _conv(weight=[]),
    "dict of widths": _conv(_out_feature_channels={"p3": 1, "p4": 2}),
}
MALFORMED = {
    "no str as a key": (
        _conv(**{}) | {"modules": {"conv": {3: 4}}},
        "a key of 'conv' is not a str",
    ),
    "name too long": (_struct(modules={"a" * 513: {}}), "a module's name is not a str"),
    "too many modules": (
        _struct(modules={str(number): {} for number in range(100_001)}),
        "it lists too many modules",
    ),
    "size too large": (_struct(size=1 << 62), "its 'size' is not a positive int"),
    "no size": (_struct(dense_size=0), "its 'dense_size' is not a positive int"),
    "architecture is no text": (
        _struct(meta_architecture=3),
        "its 'meta_architecture' is not a name",
    ),
    "one dim too many": (_conv(weight=[1] * 9), "conv.weight = .* is not a width"),
    "one dim of none": (_conv(weight=[1, 0]), "conv.weight = .1, 0. is not a width"),
    "width too large": (
        _conv(out_channels=1 << 31),
        "conv.out_channels = 2147483648 is not a width",
    ),
    "zero": (_conv(out_channels=0), "conv.out_channels = 0 is not a width"),
    "another attribute": (_conv(padding=1), "conv.padding = 1 is not a width"),
    "another dict": (_conv(other={"p3": 1}), "conv.other = .* is not a width"),
    "a dict with one zero": (
        _conv(_out_feature_channels={"p3": 1, "p4": 0}),
        "conv._out_feature_channels = .* is not a width",
    ),
    "a value without end": (
        _conv(forward="a" * 50),
        r"conv.forward = 'a{12}\.\.\.a{13}' is not a width",
    ),
}


@pytest.mark.parametrize("kind", WELL_FORMED)
def test_a_well_formed_structure_is_returned(kind):
    assert structure.validate(WELL_FORMED[kind]) is WELL_FORMED[kind]


@pytest.mark.parametrize("kind", MALFORMED)
def test_a_malformed_structure_is_refused_with_what_is_wrong(kind):
    struct, words = MALFORMED[kind]
    with pytest.raises(StructError, match=words):
        structure.validate(struct)


def test_a_missing_structure_and_one_of_a_later_version_are_told_apart():
    for struct in (None, {}, _struct(format="other")):
        with pytest.raises(StructError, match="set MODEL.FINETUNE False"):
            structure.validate(struct)
    with pytest.raises(StructError, match="has version 2, this blendprune reads 1"):
        structure.validate(_struct(version=2))


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


# One width of a layer that its other widths and shapes do not fit.
CONTRADICTIONS = [
    ("conv", {"in_channels": 2}),
    ("conv", {"weight": [3, 3, 3, 3]}),
    ("depthwise", {"groups": 2}),
    ("depthwise", {"out_channels": 2}),
    ("up", {"in_channels": 2}),
    ("up", {"out_channels": 4}),
    ("up", {"weight": [4, 7, 2, 2]}),
    ("fc", {"in_features": 4}),
    ("fc", {"out_features": 2}),
    ("norm", {"num_features": 2}),
    ("norm", {"running_var": [2]}),
    ("group_norm", {"num_channels": 2}),
]


@pytest.mark.parametrize("name, change", CONTRADICTIONS)
def test_widths_that_do_not_fit_one_another_are_refused(name, change):
    struct = blendprune.structure_of(Net(4))
    struct["modules"][name].update(change)
    with pytest.raises(StructError, match=f"contradicts itself in {name}"):
        blendprune.restructure(Net(8), struct)


def test_widths_of_a_grouped_layer_of_each_kind_fit():
    def grouped(width):
        convs = nn.Conv2d(width, 2 * width, 3, groups=2), nn.ConvTranspose2d(width, 8, 1, groups=2)
        return nn.Sequential(*convs, nn.LayerNorm(width), nn.Embedding(4, width))

    model = grouped(8)
    blendprune.restructure(model, blendprune.structure_of(grouped(4)))
    assert [tuple(layer.weight.shape) for layer in model] == [
        (8, 2, 3, 3),
        (4, 4, 1, 1),
        (4,),
        (4, 4),
    ]


def test_a_layer_norm_whose_weight_is_of_another_width_is_refused():
    struct = blendprune.structure_of(Other(4))
    struct["modules"]["layer_norm"]["normalized_shape"] = [2]
    with pytest.raises(StructError, match="contradicts itself in layer_norm"):
        blendprune.restructure(Other(8), struct)


DIFFERENT = {
    "another module": (
        lambda m: m.update(other={"out_channels": 4}),
        "'other' that the model lacks",
    ),
    "one module less": (lambda m: m.pop("layer_norm"), "'layer_norm' that the \"struct\" lacks"),
    "one tensor less": (lambda m: m["layer_norm"].pop("bias"), "differ in layer_norm.bias"),
    "another name": (
        lambda m: m[""].update(_out_feature_channels={"p3": 4, "p5": 4}),
        "._out_feature_channels = .*'p5'",
    ),
    "a wider entry of a dict": (
        lambda m: m[""].update(_out_feature_channels={"p3": 9, "p4": 8}),
        "._out_feature_channels = .*9",
    ),
    "a wider attribute": (lambda m: m[""].update(num_heads=3), r"\.num_heads = 3, the model has 2"),
    "a wider tensor": (lambda m: m[""].update(kept=[9]), r"\.kept = \[9\], the model has \[8\]"),
    "more dims": (lambda m: m[""].update(kept=[4, 1]), r"\.kept = \[4, 1\]"),
    "a list for a number": (lambda m: m[""].update(num_heads=[1]), r"\.num_heads = \[1\]"),
}


@pytest.mark.parametrize("kind", DIFFERENT)
def test_a_structure_of_another_model_is_refused_with_the_difference(kind):
    change, words = DIFFERENT[kind]
    struct = blendprune.structure_of(Other(4))
    change(struct["modules"])
    with pytest.raises(StructError, match=words):
        blendprune.restructure(Other(8), struct)


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
