"""BlendMask, of AdelaiDet or our own: FCOS head, top layer, basis module."""

import torch

from ..tracing.hooks import keeping_modes
from .default import Architecture, Stage
from .given import has_parts, normalized_images
from .registry import register_architecture


@register_architecture
class BlendMask(Architecture):
    """One stage, up to the raw outputs: decoding them costs what the detections cost."""

    @classmethod
    def matches(cls, model):
        return has_parts(model, "basis_module", "top_layer", "proposal_generator.fcos_head")

    def stages(self, batched_inputs, training_branches=False):
        def image(_):
            branches = blendmask_outputs(self.model, batched_inputs, not training_branches)
            return [output for branch in branches.values() for output in branch]

        return [Stage(image)]

    def dummy_labels(self, image):
        labels = super().dummy_labels(image)
        return {**labels, "basis_sem": torch.zeros_like(labels["sem_seg"])}


def blendmask_outputs(model, batched_inputs, inference_only=False):
    """Raw outputs of every branch of a BlendMask before decoding, training-only branches included.

    Args:
        model (nn.Module): AdelaiDet's BlendMask, or a model with the same parts.
        batched_inputs (list[dict]): detectron2's format; only ``"image"`` (C, H, W) is read.
        inference_only (bool): leave out the auxiliary head, which only training runs.

    Returns:
        dict[str, list[Tensor]]: ``"logits"`` (N, classes, Hi, Wi), ``"reg"`` (N, 4, Hi, Wi),
        ``"ctrness"`` (N, 1, Hi, Wi) and ``"top_feats"`` (N, bases·attn², Hi, Wi), one tensor per
        level; ``"bases"`` (N, bases, H, W); for a model with these branches, ``"basis_sem"``
        (N, classes + 1, H, W) of the auxiliary head and ``"sem_seg"`` of the panoptic head.
    """
    # In the order of inference, which decides on what is in memory together; so does what stays.
    images = normalized_images(model, batched_inputs)
    features = model.backbone(images.tensor)
    combined = getattr(model, "combine_on", False)
    sem_seg = [model.panoptic_module.layers(features)] if combined else []

    basis_module = model.basis_module
    # In training mode its forward wants targets for the auxiliary loss; the head runs below.
    with keeping_modes(basis_module):
        basis_module.training = False
        basis_out, _ = basis_module(features, None)

    generator = model.proposal_generator
    levels = [features[name] for name in generator.in_features]
    logits, reg, ctrness, top_feats, _ = generator.fcos_head(levels, model.top_layer, False)

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
    if combined:
        outputs["sem_seg"] = sem_seg
    return outputs
