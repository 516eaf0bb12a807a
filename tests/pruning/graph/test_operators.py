"""What operators do with channels: where each goes, which go together, which stay."""

import pytest
import torch
from torch.nn import functional as F

from blendprune.pruning.graph import operators
from blendprune.pruning.graph.channel_classes import ChannelClasses
from blendprune.pruning.graph.labels import Labels, along, combine, vector_along
from blendprune.pruning.graph.operators import Operator, apply_rule
from blendprune.pruning.tracing import channel_wise

SHAPE = (2, 6, 4, 4)


def made_by(operator, *shapes):
    """Labels of the outputs of an operator, those of its inputs, and the classes."""
    classes = ChannelClasses()
    xs = [torch.rand(shape).requires_grad_() * 1.0 for shape in shapes]
    inputs = {x.grad_fn: along(classes.new(x.shape[1]), 1, x.shape) for x in xs}

    def made(node):
        if node is None or node in inputs:
            return [inputs.get(node)]
        # Older releases of torch slice first what they select from.
        read = [made(source)[number] for source, number in node.next_functions]
        shapes = [tuple(each.shape) for each in node._input_metadata]
        return apply_rule(Operator(node, read, shapes, classes))

    return made(operator(*xs).grad_fn), [*inputs.values()], classes


def channels_of(labels, dim):
    return labels.ids.movedim(dim, 0).reshape(labels.shape[dim], -1)[:, 0].tolist()


def put_back(x, rows):
    """Some regions in their places among others."""
    found = torch.zeros(3, *x.shape[1:])
    found[torch.tensor(rows)] = x[: len(rows)]
    return found


FOLLOWED = {
    "some regions": (lambda x: put_back(x, [2, 0]), 1),
    "one region": (lambda x: put_back(x, [1]), 1),
    "relu": (lambda x: x.relu(), 1),
    "product": (lambda x: x * 2, 1),
    "bilinear": (lambda x: F.interpolate(x, scale_factor=2, mode="bilinear"), 1),
    "max pool": (lambda x: F.max_pool2d(x, 2), 1),
    "average": (lambda x: F.adaptive_avg_pool2d(x, 2), 1),
    "channels last": (lambda x: x.permute(0, 2, 3, 1), 3),
    "positions to rows": (lambda x: x.transpose(1, 3), 3),
    "one position": (lambda x: x[:, :, 0], 1),
    "some positions": (lambda x: x[:, :, 1::2], 1),
    "mean of positions": (lambda x: x.mean((2, 3)), 1),
    "mean of the last": (lambda x: x.mean(-1), 1),
    "maximum of positions": (lambda x: x.amax((2, 3), keepdim=True), 1),
    "softmax over positions": (lambda x: x.softmax(-1), 1),
    "stack behind": (lambda x: torch.stack([x, x], -1), 1),
    "stack in front": (lambda x: torch.stack([x, x], 0), 2),
    "some images": (lambda x: x[torch.tensor([1, 0])], 1),
    "padding": (lambda x: F.pad(x, (1, 1, 2, 0)), 1),
    "reflection": (lambda x: F.pad(x, (1, 1, 1, 1), mode="reflect"), 1),
    "one row of positions": (lambda x: x.view(2, 6, 16), 1),
    "roll of positions": (lambda x: x.roll((1, 1), (2, 3)), 1),
    "larger": (lambda x: torch.maximum(x, torch.zeros(1)), 1),
    "two inputs": (lambda x: torch.maximum(x, x.detach()), 1),
    "all of a slice": (lambda x: x[:, :9], 1),
}


@pytest.mark.parametrize("kind", FOLLOWED)
def test_channels_are_followed_and_may_go(kind):
    operator, dim = FOLLOWED[kind]
    [out], [x], classes = made_by(operator, SHAPE)
    assert channels_of(out, dim) == channels_of(x, 1)
    assert out.varying == [dim]
    assert list(classes.kept()) == [0]


MOVED = {
    "behind each other": (lambda x: torch.cat([x, x], 1), [1, 2, 3, 4, 5, 6] * 2),
    "behind a constant": (
        lambda x: torch.cat([torch.zeros(2, 2, 4, 4), x], 1),
        [0, 0, *range(1, 7)],
    ),
    "flattened": (lambda x: x.view(2, 6 * 16), [c for c in range(1, 7) for _ in range(16)]),
    "repeated": (lambda x: x.repeat(1, 2, 1, 1), [1, 2, 3, 4, 5, 6] * 2),
    "backwards": (lambda x: x.flip(1), [6, 5, 4, 3, 2, 1]),
    "space to depth": (
        lambda x: F.pixel_unshuffle(x, 2),
        [c for c in range(1, 7) for _ in range(4)],
    ),
}


@pytest.mark.parametrize("kind", MOVED)
def test_channels_are_found_where_they_went(kind):
    operator, channels = MOVED[kind]
    [out], _, classes = made_by(operator, SHAPE)
    assert channels_of(out, 1) == channels
    assert list(classes.kept()) == [0]


STAYING = {
    "cumulative sum": (lambda x: x.cumsum(1), "unknown operator CumsumBackward0"),
    "softmax": (lambda x: x.softmax(1), "unknown operator SoftmaxBackward0"),
    "mean of channels": (lambda x: x.mean(1), "unknown operator MeanBackward1"),
    "norm of channels": (lambda x: x.norm(dim=1), "unknown operator LinalgVectorNormBackward0"),
    "sum of everything": (lambda x: x.sum(), "unknown operator SumBackward0"),
    "one channel": (lambda x: x[:, 0], "fixed channels are taken out by SelectBackward0"),
    "first channels": (lambda x: x[:, :4], "fixed channels are taken out by SliceBackward0"),
    "some channels": (
        lambda x: x[:, torch.tensor([1, 0, 2])],
        "fixed channels are taken out by IndexBackward0",
    ),
    "parts": (
        lambda x: x.split([2, 4], 1)[0],
        "split into parts of fixed widths by SplitWithSizesBackward0",
    ),
    "each": (lambda x: x.unbind(1)[0], "fixed channels are taken out by UnbindBackward0"),
    "parts as a dimension": (
        lambda x: x.view(2, 2, 3, 4, 4),
        "its channels are split over dimensions by ViewBackward0",
    ),
    "roll": (lambda x: x.roll(1, 1), "unknown operator RollBackward0"),
}


@pytest.mark.parametrize("kind", STAYING)
def test_channels_that_an_operator_mixes_or_counts_stay(kind):
    operator, reason = STAYING[kind]
    _, [x], classes = made_by(operator, SHAPE)
    kept = classes.kept()
    assert {kept.get(channel) for channel in channels_of(x, 1)} == {reason}


def test_channels_that_are_added_go_together():
    [out], [x, y], classes = made_by(torch.add, SHAPE, SHAPE)
    assert classes.classes(x.ids).tolist() == classes.classes(y.ids).tolist()
    assert list(classes.kept()) == [0]


def test_positions_of_a_channel_that_become_channels_go_together():
    [out], [x], classes = made_by(lambda x: F.pixel_shuffle(x, 2), (2, 8, 4, 4))
    vector_along(out, 1, classes)
    found = classes.classes(torch.tensor(channels_of(x, 1))).tolist()
    assert len(set(found)) == 2 and found == sorted(found[:1] * 4 + found[4:5] * 4, key=found.index)


def test_a_gate_of_one_channel_stays_and_what_it_gates_may_go():
    [out], [x, gate], classes = made_by(torch.mul, SHAPE, (2, 1, 4, 4))
    reason = "other channels read it, too (MulBackward0)"
    assert classes.kept()[int(classes.classes(gate.ids)[0, 0, 0, 0])] == reason
    assert channels_of(out, 1) == channels_of(x, 1)
    assert not set(channels_of(x, 1)) & set(classes.kept())


def test_channels_behind_a_softmax_over_parts_are_still_several():
    classes = ChannelClasses()
    x, y = (Labels(classes.new(2, 3)[None].expand(1, 2, 3)) for _ in range(2))
    node = torch.rand(1, 2, 3).requires_grad_().softmax(1).grad_fn
    [weights] = apply_rule(Operator(node, [x], [(1, 2, 3)], classes))
    combine(y, weights, (1, 2, 3), classes, "MulBackward0")
    found = classes.classes(y.ids)[0]
    assert (found[0] == found[1]).all() and len(set(found[0].tolist())) == 3
    assert list(classes.kept()) == [0]


def test_channels_that_go_together_are_still_several():
    classes = ChannelClasses()
    x, y = (along(classes.new(6), 1, SHAPE) for _ in range(2))
    classes.join(x.ids[0, :, 0, 0], x.ids[0, :1, 0, 0].expand(6))
    combine(x, y, SHAPE, classes, "AddBackward0")
    assert len(set(classes.classes([*channels_of(x, 1), *channels_of(y, 1)]).tolist())) == 1


def test_a_product_of_all_with_all_keeps_both():
    classes = ChannelClasses()
    one, other = along(classes.new(3), 1, (3, 3)), along(classes.new(3), 0, (3, 3))
    combine(one, other, (3, 3), classes, "MulBackward0")
    kept = classes.kept()
    assert set(channels_of(one, 1)) | set(channels_of(other, 0)) <= set(kept)


class TestParameters:
    @pytest.mark.parametrize("shape", [(6, 1, 1), (6, 4, 4), (1, 6, 4, 4)])
    def test_elements_of_a_channel_go_with_it(self, shape):
        classes = ChannelClasses()
        x = along(classes.new(6), 1, SHAPE)
        p = Labels(classes.new(*shape, loose=True))
        found = combine(p, x, SHAPE, classes, "AddBackward0")
        assert found.varying == [1]
        elements = classes.classes(p.ids).reshape(6, -1)
        assert (elements == elements[:, :1]).all()
        assert elements[:, 0].tolist() == classes.classes(torch.tensor(channels_of(x, 1))).tolist()
        assert list(classes.kept()) == [0]

    @pytest.mark.parametrize("shape", [(1,), (4, 4), (2, 1, 4, 4)])
    def test_elements_that_all_channels_meet_leave_them_alone(self, shape):
        classes = ChannelClasses()
        x = along(classes.new(6), 1, SHAPE)
        p = Labels(classes.new(*shape, loose=True))
        found = combine(x, p, SHAPE, classes, "MulBackward0")
        assert channels_of(found, 1) == channels_of(x, 1)
        assert not set(channels_of(x, 1)) & set(classes.kept())


def test_a_registered_operator_keeps_channels_where_they_are(monkeypatch):
    monkeypatch.setattr(channel_wise, "_registered", {"CumsumBackward0"})
    [out], [x], classes = made_by(lambda x: x.cumsum(1), SHAPE)
    assert channels_of(out, 1) == channels_of(x, 1)
    assert list(classes.kept()) == [0]


def test_an_operator_that_its_rule_does_not_understand_is_not_followed(monkeypatch):
    def broken(operator):
        raise IndexError

    monkeypatch.setattr(operators, "_RULES", (("Relu", broken),))
    [out], [x], classes = made_by(lambda x: x.relu(), SHAPE)
    assert out.unknown
    assert set(classes.kept().values()) >= {"unknown operator ReluBackward0"}
