"""Distillation: fine-tuning with the dense model as the teacher."""

import collections
import contextlib
import functools
import logging

import torch
from detectron2.engine.train_loop import HookBase
from torch import nn

from ..checkpoint.loading import load
from ..errors import ConfigError
from ..pruning.architectures import architecture_of
from ..pruning.graph.outputs import prediction_layers
from ..pruning.scores.predictions import MIN_VARIANCE
from ..pruning.tracing.hooks import evaluating, forward_hooks
from ..pruning.tracing.view import prunable
from ..wrappers import unwrap
from .regression import FeatureRegression

_log = logging.getLogger("detectron2.blendprune")


class Distillation(HookBase):
    """Adds two losses to the model's own: ``loss_distill_features`` and ``loss_distill_heads``.

    Features are those of the backbone, level by level. A pruned model has fewer channels; therefore
    the loss compares the teacher's features with what linear regression predicts of them from the
    student's (:class:`FeatureRegression`). Heads are the prediction layers, which keep their width;
    those of a teacher with other classes are left out.
    Both losses are mean squared differences, divided by the variance of the teacher's values over
    the positions of all levels: 0 is equal, 1 is no better than the mean. The heads of an R-CNN see
    the student's regions in both models. Left out are later stages of a cascade, which depend on
    the boxes of earlier ones, and heads that run per instance in other architectures.

    Nothing upstream is changed: forward hooks on modules of the same names collect what is
    compared. A hook on the model adds the losses to its dict; they are logged like any other.

    Args:
        teacher (nn.Module | str): the dense model, or a checkpoint that `blendprune.load` reads.
        feature_weight (float), head_weight (float): factors of the two losses; 0 leaves one out.

    Raises:
        ConfigError: both weights are 0, or one is negative.
        CheckpointError: the teacher's file cannot be read.
    """

    def __init__(self, teacher, *, feature_weight=5.0, head_weight=1.0):
        if not isinstance(teacher, (str, nn.Module)):
            raise ConfigError(
                f"the teacher is a {type(teacher).__name__}: pass the dense model, or the path of "
                "its checkpoint"
            )
        weights = (feature_weight, head_weight)
        numbers = all(isinstance(x, (int, float)) for x in weights)
        if not numbers or not min(weights) >= 0 or not max(weights) > 0:
            raise ConfigError(
                "distillation wants weights of at least 0, and one above, got feature_weight "
                f"{feature_weight!r} and head_weight {head_weight!r}: set one to 0 to leave it out"
            )
        self.teacher = load(teacher) if isinstance(teacher, str) else teacher
        self.feature_weight, self.head_weight = feature_weight, head_weight
        self._heads, self._hooks = None, contextlib.ExitStack()
        # Other hooks run the model between the steps, to score its channels.
        self._in_step = False
        self._regressions = collections.defaultdict(FeatureRegression)

    def before_train(self):
        student = unwrap(self.trainer.model)
        if not isinstance(getattr(student, "backbone", None), nn.Module):
            _log.warning("distillation compares heads alone: the model has no module 'backbone'")
        device = next(student.parameters()).device
        self.teacher.to(device).eval().requires_grad_(False)
        self._hooks.enter_context(
            forward_hooks([student], self._listen, before=True, with_kwargs=True)
        )
        self._hooks.enter_context(forward_hooks([student], self._add_losses, with_kwargs=True))

    def before_step(self):
        self._in_step = True

    def after_backward(self):
        self._in_step = False

    def after_step(self):
        # Some loops do not say when the backward is done.
        self._in_step = False

    def after_train(self):
        self._hooks.close()

    def state_dict(self):
        moments = {level: each.moments for level, each in self._regressions.items()}
        return {"moments": moments, "heads": self._heads}

    def load_state_dict(self, state_dict):
        for level, moments in state_dict["moments"].items():
            self._regressions[level].moments = moments
        self._heads = state_dict["heads"]

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
        expected = self._teach(_inputs(args, kwargs), calls.regions)
        found = {}
        if self.feature_weight:
            loss = self._feature_loss(calls.features, expected.features)
            found["loss_distill_features"] = self.feature_weight * loss
        if self.head_weight:
            pairs = [self._pairs(name, calls, expected) for name in self._heads]
            # Heads that saw no region in this batch have nothing to compare.
            heads = [_head_loss(*zip(*each)) for each in pairs if each]
            loss = torch.stack(heads).mean() if heads else torch.zeros(())
            found["loss_distill_heads"] = self.head_weight * loss
        return {**losses, **found}

    def _teach(self, inputs, regions):
        """Run the teacher on whole images, and its heads on regions that the student pooled."""
        architecture, calls = architecture_of(self.teacher), _Calls(self.teacher, self._heads)
        with evaluating(self.teacher):
            try:
                architecture.run_on_regions(inputs, architecture.pooled_regions(regions))
            finally:
                calls.close()
        return calls

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
        architecture = architecture_of(self.teacher)
        names = [
            name
            for name, module in self.teacher.named_modules()
            if module in layers
            and not name.startswith("backbone.")
            and not architecture.depends_on_earlier_predictions(name)
        ]
        known = dict(student.named_modules())
        missing = [name for name in names if name not in known]
        if missing:
            raise ConfigError(
                f"the teacher has a {missing[0]} that the {type(student).__name__} in training "
                "lacks: give the dense model that it was pruned from"
            )
        theirs = dict(self.teacher.named_modules())
        other = [name for name in names if _width(known[name]) != _width(theirs[name])]
        if other:
            _log.warning(
                "distillation leaves out %s: the teacher has other classes or anchors",
                ", ".join(other),
            )
        return [name for name in names if name not in other]


class _Calls:
    """Outputs of a model's backbone and heads, and the regions it pools, until :meth:`close`."""

    def __init__(self, model, heads):
        self.features, self.outputs, self.regions = {}, {}, {}
        modules = dict(model.named_modules())
        self._hooks = contextlib.ExitStack()
        if "backbone" in modules:
            self._hook(modules["backbone"], self._keep_features)
        for name in heads:
            self._hook(modules[name], functools.partial(self._keep_output, name))
        for name, pooler in architecture_of(model).region_poolers().items():
            self._hook(pooler, functools.partial(self._keep_regions, name), before=True)

    def close(self):
        """Stop listening; returns itself."""
        self._hooks.close()
        return self

    def _hook(self, module, hook, before=False):
        self._hooks.enter_context(forward_hooks([module], hook, before=before))

    def _keep_output(self, name, module, inputs, output):
        # RetinaNet's inference goes on to take the sigmoid in place.
        self.outputs.setdefault(name, []).append(output.clone())

    def _keep_regions(self, name, pooler, inputs):
        self.regions.setdefault(name, inputs[1])

    def _keep_features(self, backbone, inputs, features):
        self.features = dict(features)


def _width(layer):
    return getattr(layer, "out_channels", None) or getattr(layer, "out_features", None)


def _head_loss(ours, theirs):
    # All levels of a pyramid at once: the coarsest level alone has few objects and much noise.
    ours, theirs = (torch.cat([x.float().flatten() for x in each]) for each in (ours, theirs))
    scale = theirs.var(unbiased=False).clamp(min=MIN_VARIANCE)
    return (ours - theirs).square().mean() / scale


def _inputs(args, kwargs):
    return args[0] if args else kwargs["batched_inputs"]
