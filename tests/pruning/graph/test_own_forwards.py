"""Heads that stages do not run: in the model's own inference, in its training, off the graph."""

import pytest
import torch
import torch.nn.functional as F
from detectron2.modeling import META_ARCH_REGISTRY, GeneralizedRCNN, build_model
from torch import nn

import blendprune
from blendprune.errors import PruningError
from blendprune.pruning import prune
from blendprune.pruning.search import rounds
from blendprune.pruning.search.own_runs import check_own_runs
from blendprune.pruning.tracing.snapshot import Snapshot
from tests.helpers.small_zoo import config_of
from tests.helpers.state import remember, unchanged
from tests.zoo import few_regions, training_batch

HOW = {"importance": "magnitude", "rounds": 1, "reconstruct": False}


class Reversal(torch.autograd.Function):
    """The identity, whose gradient is turned round."""

    @staticmethod
    def forward(ctx, x):
        return x.view_as(x)

    @staticmethod
    def backward(ctx, gradient):
        return -gradient


class WithHead(GeneralizedRCNN):
    """An R-CNN with one more head on p3; subclasses say when it runs, and how."""

    def add(self, **layers):
        for name, layer in layers.items():
            setattr(self, name, layer)
        return self.eval()

    def features(self, inputs):
        return self.backbone(self.preprocess_image(inputs).tensor)


@META_ARCH_REGISTRY.register()
class WithDepth(WithHead):
    """In inference and in training, with a label of its own that is asked for first."""

    def forward(self, inputs):
        if not self.training:
            return self.inference(inputs)
        depth = torch.stack([x["gt_depth"] for x in inputs])
        loss = (self.head(self.features(inputs)["p3"]).mean() - depth.mean()).abs()
        return {**super().forward(inputs), "loss_depth": loss}

    def inference(self, inputs, detected_instances=None, do_postprocess=True):
        found = super().inference(inputs, detected_instances, do_postprocess)
        return [{**x, "depth": self.head(self.features(inputs)["p3"])} for x in found]


@META_ARCH_REGISTRY.register()
class WithDomain(WithHead):
    """In training only, behind a gradient reversal."""

    def forward(self, inputs):
        losses = super().forward(inputs)
        if self.training:
            domain = torch.tensor([x["domain"] for x in inputs])
            p3 = Reversal.apply(self.features(inputs)["p3"])
            losses["loss_domain"] = F.cross_entropy(self.head(p3).mean((2, 3)), domain)
        return losses


@META_ARCH_REGISTRY.register()
class WithoutGradient(WithHead):
    """In inference only, where no gradient follows."""

    def inference(self, inputs, detected_instances=None, do_postprocess=True):
        with torch.no_grad():
            self.head(self.features(inputs)["p3"])
        return super().inference(inputs, detected_instances, do_postprocess)


@META_ARCH_REGISTRY.register()
class WithGate(WithHead):
    """No layer more: inference gates p3 by one of its channels, read by numpy."""

    def inference(self, inputs, detected_instances=None, do_postprocess=True):
        images = self.preprocess_image(inputs)
        features = self.backbone(images.tensor)
        gate = torch.from_numpy(features["p3"].detach().numpy()[:, 5:6].copy()).sigmoid()
        features["p3"] = features["p3"] * gate
        proposals, _ = self.proposal_generator(images, features, None)
        found, _ = self.roi_heads(images, features, proposals, None)
        return self._postprocess(found, inputs, images.image_sizes)


def build_with(cls, **layers):
    cfg = config_of("box-fpn-r18")
    cfg.MODEL.META_ARCHITECTURE = cls.__name__
    with blendprune.applied():
        model = build_model(cfg)
    width = model.backbone.fpn_output3.out_channels
    model.add(**(layers or {"head": nn.Conv2d(width, 2, 3, padding=1)}))
    few_regions(model)
    return model


def labelled():
    batch = training_batch(config_of("box-fpn-r18"), 64)
    for x in batch:
        x["gt_depth"], x["domain"] = torch.rand(64, 64), 1
    return batch


def runs_and_trains(model, images):
    from detectron2.utils.events import EventStorage

    with torch.no_grad():
        model.eval()(images)
    with EventStorage():
        sum(model.train()(labelled()).values()).backward()
    model.eval()
    return True


@pytest.mark.parametrize(
    "cls, data, reason",
    [
        (WithDepth, True, None),
        pytest.param(WithDepth, False, None, marks=pytest.mark.slow),
        (WithDomain, True, "unknown operator ReversalBackward"),
        (WithoutGradient, False, "head reads it where no gradient follows"),
        (WithGate, False, "mixes its channels"),
    ],
)
def test_what_a_head_of_the_users_own_reads_goes_with_it_or_stays_by_name(
    images, cls, reason, data
):
    model = build_with(cls)
    report = prune(model, images, pruning_ratio=0.4, data=[labelled()] if data else None, **HOW)
    assert runs_and_trains(model, images)
    pyramid = report.layers["backbone.fpn_output3"]
    assert report.layers["head"]["after"] == 2
    if reason is None:
        assert pyramid["after"] == model.head.in_channels < pyramid["before"]
    else:
        assert pyramid["after"] == pyramid["before"]
        assert any(reason in note for note in report.notes), report.notes


class Labelled(nn.Module):
    """Two convs and a predictor, whose training asks an object that nothing makes up."""

    def __init__(self, label):
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 8, 1)
        self.p, self.aux = nn.Conv2d(8, 2, 1), nn.Conv2d(8, 1, 1)
        self.label = label

    def forward(self, inputs):
        x = self.b(self.a(torch.stack([x["image"] for x in inputs])).relu())
        y = self.p(x.relu())
        if not self.training:
            return y
        weight = self.label(inputs)
        return {"loss": y.square().mean(), "aux": (self.aux(x) * weight).square().mean()}


def test_a_layer_that_nothing_could_run_is_named_with_the_reason(images):
    model = Labelled(lambda inputs: inputs[0]["instances"].gt_boxes.quality).eval()
    expected = (
        "aux: nothing was seen to run it, and training on made-up labels failed (AttributeError: "
        "'Boxes' object has no attribute 'quality'); what feeds it may be pruned without it: pass "
        "data that runs it, with the labels of its loss"
    )
    assert expected in blendprune.plan(model, images).notes
    assert expected in prune(model, images, pruning_ratio=0.4, **HOW).notes


def test_labels_that_a_training_asks_for_by_name_are_made_up(images):
    for label in (lambda x: x[0]["weight"], lambda x: x[0]["instances"].quality):
        model = Labelled(label).eval()
        report = prune(model, images, pruning_ratio=0.4, **HOW)
        assert not report.notes
        assert model.aux.in_channels == model.p.in_channels == report.layers["b"]["after"] < 8


def test_a_model_that_cannot_run_is_refused_by_the_layer_that_fails(images):
    model = Labelled(lambda inputs: 1.0).eval()
    dense = Snapshot(model)
    assert check_own_runs(model, dense, images, [images]) == []
    model.p = nn.Conv2d(7, 2, 1)
    with pytest.raises(PruningError, match="Labelled does not run in inference: p fails"):
        check_own_runs(model, dense, images)
    dense.restore()
    model.aux = nn.Conv2d(7, 1, 1)
    assert check_own_runs(model, dense, images) == []
    with pytest.raises(PruningError, match="Labelled does not run in training: aux fails"):
        check_own_runs(model, dense, images, [images])


def test_a_pruning_that_the_model_cannot_run_after_is_undone(images, monkeypatch):
    def refuse(*args):
        raise PruningError("it does not run")

    model = Labelled(lambda inputs: 1.0).eval()
    before = remember(model)
    monkeypatch.setattr(rounds, "check_own_runs", refuse)
    with pytest.raises(PruningError, match="it does not run"):
        prune(model, images, pruning_ratio=0.4, **HOW)
    assert unchanged(model, before)


def test_what_the_dense_model_cannot_run_either_is_noted(images):
    model = Labelled(lambda inputs: inputs[0]["weight"]).eval()
    report = prune(model, images, pruning_ratio=0.4, data=[images], **HOW)
    assert report.notes == [
        "training was not tried after the pruning: the dense model fails, too (KeyError: 'weight')"
    ]


def test_a_plan_with_data_sees_what_a_pruning_with_the_same_data_sees(images):
    model = Labelled(lambda inputs: inputs[0]["sizes"]["mean"]).eval()
    batch = [{**images[0], "sizes": {"mean": 1.0}}]
    [note] = blendprune.plan(model, images).notes
    assert note.startswith("aux: nothing was seen to run it")
    assert not blendprune.plan(model, images, data=[batch]).notes
    assert not prune(model, images, pruning_ratio=0.4, data=[batch], **HOW).notes


class ByDomain(Labelled):
    """One head by day, another by night."""

    def __init__(self):
        super().__init__(None)
        self.aux, self.night, self.p = (nn.Conv2d(8, n, 1) for n in (8, 8, 2))

    def forward(self, batched_inputs):
        x = self.b(self.a(torch.stack([each["image"] for each in batched_inputs])).relu())
        y = self.p((self.night if batched_inputs[0].get("night") else self.aux)(x))
        return {"loss": y.square().mean()} if self.training else y


def test_a_layer_that_few_images_run_is_found_among_the_data(images):
    day, night = [[{**images[0], "night": dark}] for dark in (False, True)]
    model = ByDomain().eval()
    [note] = blendprune.plan(model, images, data=[day]).notes
    assert note.startswith("night: nothing was seen to run it; what feeds it may be pruned")
    report = prune(model, images, pruning_ratio=0.4, data=[day, day, night, day], **HOW)
    assert report.notes == [] and report.layers["b"]["after"] < 8
    for batch in (day, night):
        model.train()(batch)["loss"].backward()


def test_a_class_that_knows_no_module_is_pruned(images):
    # As one that a LazyConfig's file defines.
    space = {"base": ByDomain}
    exec("kind = type('Nameless', (base,), {})", space)
    assert not hasattr(space["kind"], "__module__")
    report = prune(space["kind"]().eval(), images, pruning_ratio=0.4, **HOW)
    assert report.layers["b"]["after"] < 8
