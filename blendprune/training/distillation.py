"""Distillation: the pruned model learns from the dense one while it is fine-tuned."""

import collections
import functools
import logging

import torch
from detectron2.engine.train_loop import HookBase
from torch import nn

from ..checkpoint import load
from ..errors import ConfigError
from ..pruning.architectures.rcnn import has_regions
from ..pruning.graph.outputs import prediction_layers, stages
from ..pruning.scores.predictions import LEAST_VARIANCE
from ..pruning.tracing.view import evaluating, prunable
from ..structure import unwrap
from .regression import FeatureRegression

_log = logging.getLogger(__name__)


class Distillation(HookBase):
    """Adds two losses to the model's own: ``loss_distill_features`` and ``loss_distill_heads``.

    The features are those of the backbone, level by level. Pruning leaves fewer channels, so what
    is compared is what can be read off them: the teacher's, predicted from the student's by linear
    regression (:class:`FeatureRegression`). The heads' outputs are those of the prediction layers,
    which keep their width. Both losses are mean squared differences over the variance of the
    teacher's, of the positions of all levels; 0 is equal, 1 no better than the mean. The heads of
    an R-CNN see the student's regions in both models; stages of a cascade after the first are left
    out, as theirs depend on what came before, and so is what runs once a detected instance
    elsewhere.

    Nothing upstream is touched: forward hooks on modules of the same names collect what is
    compared, and one on the model adds the losses to its dict, to be logged like any other.

    Args:
        teacher (nn.Module | str): the dense model, or a checkpoint that `blendprune.load` reads.
        feature_weight (float), head_weight (float): factors of the two losses; 0 leaves one out.

    Raises:
        ConfigError: both weights are 0, or one is negative.
        CheckpointError: the teacher's file cannot be read.
    """

    def __init__(self, teacher, *, feature_weight=5.0, head_weight=1.0):
        if min(feature_weight, head_weight) < 0 or not max(feature_weight, head_weight):
            raise ConfigError(
                "distillation wants weights of at least 0, and one above, got feature_weight "
                f"{feature_weight} and head_weight {head_weight}"
            )
        self.teacher = load(teacher) if isinstance(teacher, str) else teacher
        self.feature_weight, self.head_weight = feature_weight, head_weight
        self._heads, self._handles = None, []
        # Other hooks run the model between the steps, to score its channels by its own losses.
        self._in_step = False
        self._regressions = collections.defaultdict(FeatureRegression)

    def before_train(self):
        student = unwrap(self.trainer.model)
        if not isinstance(getattr(student, "backbone", None), nn.Module):
            _log.warning("distillation compares heads alone: the model has no module 'backbone'")
        device = next(student.parameters()).device
        self.teacher.to(device).eval().requires_grad_(False)
        self._handles = [
            student.register_forward_pre_hook(self._listen, with_kwargs=True),
            student.register_forward_hook(self._add_losses, with_kwargs=True),
        ]

    def before_step(self):
        self._in_step = True

    def after_backward(self):
        self._in_step = False

    def after_train(self):
        for handle in self._handles:
            handle.remove()
        self._handles = []

    def _listen(self, student, args, kwargs):
        if not (self._in_step and student.training):
            return
        if self._heads is None:
            self._heads = self._common_heads(student, _inputs(args, kwargs))
        self._student = _Calls(student, self._heads)

    def _add_losses(self, student, args, kwargs, losses):
        if not (self._in_step and student.training):
            return None
        calls = self._student.close()
        if not isinstance(losses, dict):
            return None
        teacher = _Calls(self.teacher, self._heads)
        with evaluating(self.teacher):
            try:
                _run(self.teacher, _inputs(args, kwargs), calls)
            finally:
                expected = teacher.close()
        found = {}
        if self.feature_weight:
            loss = self._feature_loss(calls.features, expected.features)
            found["loss_distill_features"] = self.feature_weight * loss
        if self.head_weight:
            pairs = [self._pairs(name, calls, expected) for name in self._heads]
            # Of heads that saw no region in this batch, there is nothing to compare.
            heads = [_head_loss(*zip(*each)) for each in pairs if each]
            loss = torch.stack(heads).mean() if heads else torch.zeros(())
            found["loss_distill_heads"] = self.head_weight * loss
        return {**losses, **found}

    def _feature_loss(self, ours, theirs):
        positions = {level: x[:, 0].numel() for level, x in theirs.items()}
        losses = (
            count * self._regressions[level](ours[level], theirs[level])
            for level, count in positions.items()
        )
        return sum(losses, torch.zeros(())) / max(sum(positions.values()), 1)

    def _pairs(self, name, calls, expected):
        ours, theirs = calls.outputs.get(name, []), expected.outputs.get(name, [])
        if [x.shape for x in ours] == [x.shape for x in theirs]:
            return [pair for pair in zip(ours, theirs) if pair[0].numel()]
        _log.warning(
            "distillation leaves out %s from now on: training and inference run it on different "
            "inputs",
            name,
        )
        self._heads = [head for head in self._heads if head != name]
        return []

    def _common_heads(self, student, inputs):
        with prunable(self.teacher), evaluating(self.teacher):
            layers = set(prediction_layers(self.teacher, inputs[:1]))
        names = [name for name, module in self.teacher.named_modules() if module in layers]
        names = [
            name
            for name in names
            if not name.startswith("backbone.") and not _is_later_stage(self.teacher, name)
        ]
        known = dict(student.named_modules())
        missing = [name for name in names if name not in known]
        if missing:
            raise ConfigError(
                f"the teacher has a {missing[0]} that the {type(student).__name__} in training "
                "lacks: give the dense model that it was pruned from"
            )
        return names


class _Calls:
    """What a model's backbone and heads give, and the regions it pools, while it runs."""

    def __init__(self, model, heads):
        self.features, self.outputs, self.regions = {}, {}, {}
        modules = dict(model.named_modules())
        self._handles = []
        if "backbone" in modules:
            self._handles.append(modules["backbone"].register_forward_hook(self._keep_features))
        for name in heads:
            keep = functools.partial(self._keep_output, name)
            self._handles.append(modules[name].register_forward_hook(keep))
        if has_regions(model):
            for name in ("box_pooler", "pooler", "mask_pooler", "keypoint_pooler"):
                pooler = getattr(model.roi_heads, name, None)
                if pooler is not None:
                    keep = functools.partial(self._keep_regions, name)
                    self._handles.append(pooler.register_forward_pre_hook(keep))

    def close(self):
        for handle in self._handles:
            handle.remove()
        return self

    def _keep_output(self, name, module, inputs, output):
        # RetinaNet's inference goes on to take the sigmoid in place.
        self.outputs.setdefault(name, []).append(output.clone())

    def _keep_regions(self, name, pooler, inputs):
        self.regions.setdefault(name, inputs[1])

    def _keep_features(self, backbone, inputs, features):
        self.features = dict(features)


def _run(model, inputs, calls):
    """Run the teacher on whole images; an R-CNN's heads see the regions that the student pooled."""
    if not has_regions(model):
        image, _ = stages(model, inputs, inference_only=False)[0]
        image(1)
        return
    (image, _), (boxes, _), (detections, _) = stages(model, inputs)
    image(1)
    regions = calls.regions
    proposals = regions.get("box_pooler", regions.get("pooler"))
    if proposals is not None:
        boxes(proposals)
    detected = regions.get("mask_pooler", regions.get("keypoint_pooler"))
    if detected is not None and sum(map(len, detected)):
        detections(detected)


def _head_loss(ours, theirs):
    # All levels of a pyramid at once: the coarsest, where hardly anything is, would be all noise.
    ours, theirs = (torch.cat([x.float().flatten() for x in each]) for each in (ours, theirs))
    scale = theirs.var(unbiased=False).clamp(min=LEAST_VARIANCE)
    return (ours - theirs).square().mean() / scale


def _is_later_stage(model, name):
    # A cascade: one predictor a stage, each on what the one before it made of the regions.
    predictors = getattr(getattr(model, "roi_heads", None), "box_predictor", None)
    first = "roi_heads.box_predictor.0."
    inside = name.startswith("roi_heads.box_predictor.")
    return isinstance(predictors, nn.ModuleList) and inside and not name.startswith(first)


def _inputs(args, kwargs):
    return args[0] if args else kwargs["batched_inputs"]
