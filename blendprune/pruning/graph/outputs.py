"""Where each architecture ends: its raw, differentiable outputs and the layers that give them."""

import functools

import torch
from detectron2.modeling.backbone import Backbone
from detectron2.utils.events import EventStorage

from ...modeling.attention import is_attention
from ..architectures.instances import instance_stages, normalized_images
from ..architectures.rcnn import has_regions, rcnn_stages
from ..architectures.training_forward import run_training
from ..tracing.autograd import reached
from ..tracing.hooks import forward_hooks
from ..tracing.view import evaluating, is_dynamic_head, is_norm, is_prunable_layer

# Heads of PointRend whose output means something although a point head goes on from there.
_COARSE_HEADS = ("coarse_head", "coarse_sem_seg_head", "parameter_head")


def is_blendmask(model):
    """Whether the model has BlendMask's parts: FCOS head, top layer and basis module."""
    return (
        hasattr(model, "basis_module")
        and hasattr(model, "top_layer")
        and hasattr(getattr(model, "proposal_generator", None), "fcos_head")
    )


def blendmask_outputs(model, batched_inputs, inference_only=False):
    """Raw outputs of every branch of a BlendMask, before any decoding, training-only ones too.

    Args:
        model (nn.Module): AdelaiDet's BlendMask or one of the same parts.
        batched_inputs (list[dict]): detectron2's format; only ``"image"``, (C, H, W), is read.
        inference_only (bool): leave out the auxiliary head, which only training runs.

    Returns:
        dict[str, list[Tensor]]: ``"logits"`` (N, classes, Hi, Wi), ``"reg"`` (N, 4, Hi, Wi),
        ``"ctrness"`` (N, 1, Hi, Wi) and ``"top_feats"`` (N, bases·attn², Hi, Wi), one tensor a
        level; ``"bases"`` (N, bases, H, W); where the model has the branch, ``"basis_sem"``
        (N, classes + 1, H, W) of the auxiliary head and ``"sem_seg"`` of the panoptic head.
    """
    features = model.backbone(normalized_images(model, batched_inputs).tensor)

    generator = model.proposal_generator
    levels = [features[name] for name in generator.in_features]
    logits, reg, ctrness, top_feats, _ = generator.fcos_head(levels, model.top_layer, False)

    basis_module = model.basis_module
    # In training mode its forward wants targets for the auxiliary loss; the head runs below.
    training, basis_module.training = basis_module.training, False
    try:
        basis_out, _ = basis_module(features, None)
    finally:
        basis_module.training = training

    outputs = {
        "logits": list(logits),
        "reg": list(reg),
        "ctrness": list(ctrness),
        "top_feats": list(top_feats),
        "bases": list(basis_out["bases"]),
    }
    if hasattr(basis_module, "seg_head") and not inference_only:
        first = features[basis_module.in_features[0]]
        outputs["basis_sem"] = [basis_module.seg_head(first)]
    if getattr(model, "combine_on", False):
        outputs["sem_seg"] = [model.panoptic_module.layers(features)]
    return outputs


def head_outputs(model, batched_inputs, inference_only=False, all_regions=False):
    """Raw differentiable outputs that together depend on every branch of the model.

    For BlendMask, its parts are run one by one (:func:`blendmask_outputs`). For any other model,
    its :func:`stages` run, and what the prediction layers gave is collected by forward hooks. With
    gradients, so is what the layers give that only training runs, on made-up labels.

    Args:
        model (nn.Module): any detectron2-style model in eval mode, inside or outside the prunable
            view.
        batched_inputs (list[dict]): detectron2's format.
        inference_only (bool): leave out branches that only training has (``"basis_sem"``).
        all_regions (bool): run the heads on as many regions as inference may, not on one.

    Returns:
        list[Tensor]: with gradient history if gradients are enabled.
    """
    if is_blendmask(model):
        outputs = []
        calls = _record_calls(
            model,
            lambda: outputs.extend(
                x
                for branch in blendmask_outputs(model, batched_inputs, inference_only).values()
                for x in branch
            ),
        )
        if torch.is_grad_enabled():
            # What predicts the offsets of a deformable conv ends there.
            seen = reached(output.grad_fn for output in outputs)
            sinks = _sinks(calls)
            outputs += [x for m, x, node in calls if m in sinks and node not in seen]
        return outputs
    calls = _record_calls(model, lambda: _run(model, batched_inputs, all_regions=all_regions))
    if not torch.is_grad_enabled():
        return [output for _, output, _ in calls]
    outputs = [output for _, output in _ends(calls)]
    if not inference_only:
        seen, more = _seen(calls), _training_calls(model, batched_inputs, calls)
        outputs += [output for module, output in _ends(more) if module not in seen]
    return outputs


def small_inputs(model, batched_inputs):
    """The inputs with small images, where that leaves the graph of the model as it is.

    No layer of a detector with a backbone depends on the size of the image, and a small one runs
    faster.

    Args:
        model (nn.Module): a detectron2-style model.
        batched_inputs (list[dict]): detectron2's format.

    Returns:
        list[dict]: images cropped to at most 256 pixels a side, for models with a backbone.
    """
    if not isinstance(getattr(model, "backbone", None), Backbone):
        return batched_inputs
    return [{**x, "image": x["image"][:, :256, :256]} for x in batched_inputs]


def prediction_layers(model, batched_inputs):
    """The layers whose output width means something, and so must stay.

    They are the convs and linears whose output reaches no other conv or linear in inference, those
    that only training has, likewise, and those in which a coarse head of PointRend ends, although
    its point head reads them.

    Args:
        model (nn.Module): a detectron2-style model in eval mode inside the prunable view.
        batched_inputs (list[dict]): detectron2's format.

    Returns:
        list[nn.Module]: in execution order.
    """
    with torch.enable_grad():
        calls = _record_calls(model, lambda: _run(model, batched_inputs))
        sinks = _sinks(calls)
        for name, part in model.named_modules():
            if name.rpartition(".")[2] in _COARSE_HEADS:
                inside = set(part.modules())
                sinks |= _sinks([call for call in calls if call[0] in inside])
        if not is_blendmask(model):
            # A prediction of inference stays one, even where training reads it on.
            more = _training_calls(model, batched_inputs, calls)
            sinks |= _sinks(more) - _seen(calls)
            calls += more
    return [m for m in dict.fromkeys(module for module, _, _ in calls) if m in sinks]


def inference_layers(model, batched_inputs):
    """The convs and linears that inference runs, by the first of its :func:`stages` to run them.

    Args:
        model (nn.Module): a detectron2-style model, inside or outside the prunable view.
        batched_inputs (list[dict]): detectron2's format.

    Returns:
        dict[nn.Module, int]: number of the stage; without those that only training has.
    """
    found = {}
    with evaluating(model), EventStorage():
        for number, (run, _) in enumerate(stages(model, batched_inputs)):
            for module, _, _ in _record_calls(model, functools.partial(run, 1)):
                if is_prunable_layer(module):
                    found.setdefault(module, number)
    return found


def stages(model, batched_inputs, inference_only=True):
    """The forward in parts that do not depend on what is detected.

    Args:
        model (nn.Module): a detectron2-style model in eval mode.
        batched_inputs (list[dict]): detectron2's format.
        inference_only (bool): leave out branches that only training has.

    Returns:
        list[tuple[Callable, int]]: parts to be called in order, each with the number of regions or
        instances of an image; a part runs on the number it is called with, and one that sees the
        whole image has a number of 1 and does not mind.
    """
    if is_blendmask(model):
        return [(lambda _: blendmask_outputs(model, batched_inputs, inference_only), 1)]
    if has_regions(model):
        return rcnn_stages(model, batched_inputs)
    return instance_stages(model, batched_inputs) or [(lambda _: model(batched_inputs), 1)]


def _run(model, batched_inputs, all_regions=False):
    # Some detectors log scalars while they run, and look for a storage to log to.
    with EventStorage():
        for run, regions in stages(model, batched_inputs, inference_only=False):
            run(regions if all_regions else 1)


def _record_calls(model, run):
    """(module, output, grad_fn) of every conv, linear, norm and dynamic head, as executed."""
    calls = []

    def record(module, inputs, output):
        if isinstance(output, torch.Tensor):
            # Read now: an in-place activation will put its own grad_fn on the output.
            calls.append((module, output, output.grad_fn))

    layers = [
        module
        for module in model.modules()
        if is_prunable_layer(module) or is_norm(module) or is_dynamic_head(module)
    ]
    with forward_hooks(layers, record):
        run()
    return calls


def _sinks(calls):
    """Modules among the convs and linears called whose output feeds none of the others."""
    layer_of = {
        grad_fn: module
        for module, _, grad_fn in calls
        if grad_fn is not None and is_prunable_layer(module)
    }
    sources = (source for node in layer_of for source, _ in node.next_functions)
    feeding = {layer_of[node] for node in reached(sources) if node in layer_of}
    return set(layer_of.values()) - feeding


def _ends(calls):
    """(module, output) of the calls that feed no other: prediction layers, or norms behind them."""
    traced = [call for call in calls if call[2] is not None]
    read = reached(source for _, _, node in traced for source, _ in node.next_functions)
    return [(module, output) for module, output, node in traced if node not in read]


def _training_calls(model, batched_inputs, calls):
    """Calls of the training forward, if it may show layers that the given calls have not."""
    # What runs inside attention is part of one operator there.
    seen = _seen(calls).union(*(m.modules() for m in model.modules() if is_attention(m)))
    if all(module in seen for module in model.modules() if is_prunable_layer(module)):
        return []
    with EventStorage():
        return _record_calls(model, lambda: run_training(model, batched_inputs))


def _seen(calls):
    return {module for module, _, node in calls if node is not None}
