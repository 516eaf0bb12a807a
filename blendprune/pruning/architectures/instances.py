"""AdelaiDet's detectors whose last layers run once an instance, run on given instances.

What their dynamic convs, text recognisers and keypoint heads compute depends on how many objects
were found: with random weights none, and then they would neither be traced nor counted. As with
the regions of an R-CNN (``rcnn.py``), each of them runs on instances that are
given, and the limits of the config say how many there are.
"""

import contextlib

import torch
import torch.nn.functional as F
from detectron2.structures import Boxes, ImageList

from ..tracing.hooks import forward_hooks
from .rcnn import given_instances


def instance_stages(model, batched_inputs):
    """A CondInst, BoxInst, FCPose, BAText, SOLOv2 or MEInst in parts: the image, the instances.

    Args:
        model (nn.Module): a model of AdelaiDet in eval mode.
        batched_inputs (list[dict]): detectron2's format; only ``"image"``, (C, H, W), is read.

    Returns:
        list[tuple[Callable, int]] | None: as ``stages``; the second
        part runs on instances, and its number is the most that inference keeps of an image. None
        for any other model.
    """
    for holds, build in _KINDS:
        if all(_has(model, path) for path in holds):
            return build(model, batched_inputs)
    return None


def _condinst(model, batched_inputs):
    seen = {}

    def image(_):
        seen["images"] = images = normalized_images(model, batched_inputs)
        features = model.backbone(images.tensor)
        seen["maps"], _ = model.mask_branch(features, None)
        model.proposal_generator(images, features, None, model.controller)

    def masks(count):
        given = _given(seen["images"], count)
        for instances in given:
            size = (count, model.mask_head.num_gen_params)
            instances.top_feat = seen["maps"].new_zeros(size)
        model._forward_mask_heads_test(given, seen["maps"])

    return [(image, 1), (masks, _kept(model.proposal_generator))]


def _fcpose(model, batched_inputs):
    generator, seen = model.proposal_generator, {}

    def image(_):
        seen["images"] = images = normalized_images(model, batched_inputs)
        features = model.backbone(images.tensor)
        levels = [features[name] for name in generator.fcos.in_features]
        *_, seen["top"], _ = generator.fcos.fcos_head(levels, generator.top_module, False)
        seen["bases"], _ = generator.basis_module(features)

    def poses(count):
        given = _given(seen["images"], count)
        for instances, top in zip(given, seen["top"][0]):
            # What the head reads at one position stands for what it reads at each instance.
            instances.top_feat = top.flatten(1).t()[:1].expand(count, -1)
        bases = seen["bases"]
        generator.fcpose_head(bases["bases"], given, None, None, bases["basis_seg"])

    return [(image, 1), (poses, _kept(generator.fcos))]


def _batext(model, batched_inputs):
    seen = {}

    def image(_):
        seen["images"] = images = model.preprocess_image(batched_inputs)
        seen["features"] = model.backbone(images.tensor)
        model.proposal_generator(images, seen["features"], None, model.top_module)

    def texts(count):
        given = _given(seen["images"], count)
        for instances in given:
            height, width = instances.image_size
            line = torch.linspace(0, width, 4, device=instances.locations.device)
            upper = torch.stack([line, torch.zeros_like(line)], 1)
            lower = torch.stack([line.flip(0), torch.full_like(line, height)], 1)
            instances.top_feat = torch.cat([upper, lower]).view(1, 16).repeat(count, 1)
        with no_gradients_from_recurrent_layers(model.roi_heads):
            model.roi_heads(None, seen["features"], given)

    return [(image, 1), (texts, _kept(model.proposal_generator))]


def _solov2(model, batched_inputs):
    seen = {}

    def image(_):
        features = model.backbone(model.preprocess_image(batched_inputs).tensor)
        levels = [features[name] for name in model.instance_in_features]
        model.ins_head(model.split_feats(levels))
        seen["maps"] = model.mask_head([features[name] for name in model.mask_in_features])

    def masks(count):
        F.conv2d(seen["maps"], seen["maps"].new_zeros(count, seen["maps"].shape[1], 1, 1))

    return [(image, 1), (masks, model.max_before_nms)]


def _meinst(model, batched_inputs):
    generator = model.proposal_generator

    def image(_):
        features = model.backbone(normalized_images(model, batched_inputs).tensor)
        generator.MEInst_head([features[name] for name in generator.in_features])

    return [(image, 1)]


# Attributes by which an architecture is told, and how it is run.
_KINDS = (
    (("controller", "mask_branch", "mask_head.num_gen_params"), _condinst),
    (("proposal_generator.fcpose_head", "proposal_generator.basis_module"), _fcpose),
    (("top_module", "roi_heads.recognizer", "roi_heads.pooler"), _batext),
    (("ins_head", "mask_head.convs_all_levels", "split_feats"), _solov2),
    (("proposal_generator.MEInst_head",), _meinst),
)


def _has(model, path):
    for name in path.split("."):
        model = getattr(model, name, None)
    return model is not None


def _kept(generator):
    # A number that is not positive is upstream's way to say that nothing is dropped after NMS.
    limits = getattr(generator, "fcos_outputs", generator)
    kept = limits.post_nms_topk_test
    return kept if kept > 0 else limits.pre_nms_topk_test


@contextlib.contextmanager
def no_gradients_from_recurrent_layers(model):
    """Let the autograd graph end where a sequence begins: what is recurrent is not pruned.

    Unrolled, it would have every character depend on every other.

    Args:
        model (nn.Module): the first recurrent layer in it that runs turns gradients off, until the
            ``with`` block ends.
    """

    def stop(module, inputs):
        torch.set_grad_enabled(False)

    recurrent = [m for m in model.modules() if isinstance(m, torch.nn.RNNBase)]
    # What grad mode is now it is again afterwards.
    with (
        forward_hooks(recurrent, stop, before=True),
        torch.set_grad_enabled(torch.is_grad_enabled()),
    ):
        yield


def normalized_images(model, batched_inputs):
    """Images as the model's own forward makes them, where it has no method for it.

    Args:
        model (nn.Module): with ``normalizer``, or ``pixel_mean`` and ``pixel_std``.
        batched_inputs (list[dict]): detectron2's format; only ``"image"``, (C, H, W), is read.

    Returns:
        ImageList: normalised, padded to the size that the backbone divides by.
    """

    def normalizer(x):
        return (x - model.pixel_mean) / model.pixel_std

    normalize = getattr(model, "normalizer", normalizer)
    images = [normalize(x["image"].to(model.device)) for x in batched_inputs]
    return ImageList.from_tensors(images, model.backbone.size_divisibility)


def _given(images, count):
    """``count`` instances in the corner of each image, with what FCOS knows of an instance."""
    corners = [Boxes(images.tensor.new_zeros(count, 4)) for _ in images.image_sizes]
    found = given_instances(images, corners, "pred_boxes")
    for instances in found:
        instances.locations = images.tensor.new_zeros(count, 2)
        instances.fpn_levels = torch.zeros_like(instances.pred_classes)
    return found
