"""BlendMask (arXiv:2001.00309): FCOS boxes, and masks blended from bases of the whole image."""

import torch
from detectron2.modeling.backbone import build_backbone
from detectron2.modeling.meta_arch.panoptic_fpn import combine_semantic_and_instance_outputs
from detectron2.modeling.meta_arch.semantic_seg import build_sem_seg_head
from detectron2.modeling.postprocessing import detector_postprocess, sem_seg_postprocess
from detectron2.modeling.proposal_generator import build_proposal_generator
from detectron2.structures import ImageList
from torch import nn

from .basis_module import build_basis_module
from .blender import build_blender
from .normalizer import Normalizer

__all__ = ["BlendMask"]


def build_parts(model, cfg, blender, basis_module):
    """Build the parts of a BlendMask, in upstream's order.

    With this order, a seed gives the same weights as upstream.

    Args:
        model (nn.Module): an empty module. The parts and settings become its attributes.
        cfg (CfgNode): a config with the keys of ``add_blendmask_config``.
        blender (Callable): ``blender(cfg)``, of this package or AdelaiDet.
        basis_module (Callable): ``basis_module(cfg, shapes)``, of this package or AdelaiDet.
    """
    model.device = torch.device(cfg.MODEL.DEVICE)
    model.instance_loss_weight = cfg.MODEL.BLENDMASK.INSTANCE_LOSS_WEIGHT

    model.backbone = build_backbone(cfg)
    shapes = model.backbone.output_shape()
    model.proposal_generator = build_proposal_generator(cfg, shapes)
    model.blender = blender(cfg)
    model.basis_module = basis_module(cfg, shapes)

    combine = cfg.MODEL.PANOPTIC_FPN.COMBINE
    model.combine_on = combine.ENABLED
    if model.combine_on:
        model.panoptic_module = build_sem_seg_head(cfg, shapes)
        model.combine_overlap_threshold = combine.OVERLAP_THRESH
        model.combine_stuff_area_limit = combine.STUFF_AREA_LIMIT
        model.combine_instances_confidence_threshold = combine.INSTANCES_CONFIDENCE_THRESH

    attention = cfg.MODEL.BASIS_MODULE.NUM_BASES * cfg.MODEL.BLENDMASK.ATTN_SIZE**2
    model.top_layer = nn.Conv2d(cfg.MODEL.FPN.OUT_CHANNELS, attention, 3, padding=1)
    nn.init.normal_(model.top_layer.weight, std=0.01)
    nn.init.zeros_(model.top_layer.bias)

    model.normalizer = Normalizer(cfg.MODEL.PIXEL_MEAN, cfg.MODEL.PIXEL_STD, model.device)
    model.to(model.device)


class BlendMask(nn.Module):
    """The meta architecture, optionally with a panoptic branch.

    Backbone and proposal generator come from detectron2's registries by their names in the config,
    so they are exchangeable.

    Args:
        cfg (CfgNode): a config with the keys of ``add_blendmask_config``.
    """

    def __init__(self, cfg):
        super().__init__()
        build_parts(self, cfg, build_blender, build_basis_module)

    def forward(self, batched_inputs):
        """Compute losses in training, results in inference.

        Args:
            batched_inputs (list[dict]): per image ``image``, (C, H, W) in the units of PIXEL_MEAN.
                In training also ``instances``, with LOSS_ON ``basis_sem`` (H, W), and with a
                panoptic branch ``sem_seg`` (H, W). Optionally ``height`` and ``width``, the size of
                the results in pixels.

        Returns:
            dict[str, Tensor] or list[dict]: losses by name in training. Otherwise per image
            ``instances`` and, with a panoptic branch, ``sem_seg`` and ``panoptic_seg``.
        """
        images = [self.normalizer(x["image"].to(self.device)) for x in batched_inputs]
        images = ImageList.from_tensors(images, self.backbone.size_divisibility)
        features = self.backbone(images.tensor)

        sem_results, sem_losses = None, {}
        if self.combine_on:
            ignored = self.panoptic_module.ignore_value
            gt_sem = self._labels(batched_inputs, "sem_seg", ignored)
            sem_results, sem_losses = self.panoptic_module(features, gt_sem)

        basis_sem = self._labels(batched_inputs, "basis_sem", 0)
        basis_out, basis_losses = self.basis_module(features, basis_sem)

        gt_instances = None
        if self.training:
            gt_instances = [x["instances"].to(self.device) for x in batched_inputs]
        proposals, box_losses = self.proposal_generator(
            images, features, gt_instances, self.top_layer
        )
        detections, mask_losses = self.blender(basis_out["bases"], proposals, gt_instances)

        if self.training:
            mask_losses = {k: v * self.instance_loss_weight for k, v in mask_losses.items()}
            return {**basis_losses, **mask_losses, **box_losses, **sem_losses}
        return [
            self._result(i, inputs, size, detections, basis_out, sem_results)
            for i, (inputs, size) in enumerate(zip(batched_inputs, images.image_sizes, strict=True))
        ]

    def _labels(self, batched_inputs, key, padding):
        # One tensor (N, H, W), padded like the images, or None without such labels.
        if key not in batched_inputs[0]:
            return None
        maps = [x[key].to(self.device) for x in batched_inputs]
        return ImageList.from_tensors(maps, self.backbone.size_divisibility, padding).tensor

    def _result(self, i, inputs, image_size, detections, basis_out, sem_results):
        height = inputs.get("height", image_size[0])
        width = inputs.get("width", image_size[1])
        result = {"instances": detector_postprocess(detections[i], height, width)}
        if "seg_thing_out" in basis_out:
            result["sem_thing_seg"] = sem_seg_postprocess(
                basis_out["seg_thing_out"][i], image_size, height, width
            )
        if self.basis_module.visualize:
            result["bases"] = basis_out["bases"]
        if self.combine_on:
            result["sem_seg"] = sem_seg_postprocess(sem_results[i], image_size, height, width)
            result["panoptic_seg"] = combine_semantic_and_instance_outputs(
                result["instances"],
                result["sem_seg"].argmax(dim=0),
                self.combine_overlap_threshold,
                self.combine_stuff_area_limit,
                self.combine_instances_confidence_threshold,
            )
        return result
