"""The dense and pruned models, with random weights that detect a fixed number of objects."""

import copy

import torch
from detectron2 import model_zoo
from detectron2.config import get_cfg
from detectron2.modeling import build_model

import blendprune
from blendprune import modeling
from tests.helpers.small_blendmask import small_cfg
from tests.helpers.small_zoo import config_of
from tests.zoo import settle_norms

MODELS = ("mask_rcnn", "blendmask")
_MASK_RCNN = "COCO-InstanceSegmentation/mask_rcnn_R_50_FPN_3x.yaml"
_BLENDMASK = (
    *("MODEL.META_ARCHITECTURE", "BlendMask", "MODEL.MASK_ON", True),
    *("MODEL.BACKBONE.NAME", "build_fcos_resnet_fpn_backbone"),
    *("MODEL.PROPOSAL_GENERATOR.NAME", "FCOS", "MODEL.FCOS.NORM", "BN"),
    *("MODEL.RESNETS.OUT_FEATURES", ["res3", "res4", "res5"]),
    *("MODEL.FPN.IN_FEATURES", ["res3", "res4", "res5"]),
    *("MODEL.FCOS.TOP_LEVELS", 2, "MODEL.BASIS_MODULE.NORM", "BN"),
    *("MODEL.PANOPTIC_FPN.COMBINE.ENABLED", False),
)
# Scores above the threshold, per image: what NMS works on.
_CANDIDATES = 500


def dense_model(name, device, small=False, depth=50):
    """Build a dense model whose batch norms have the statistics of what they see.

    Args:
        name (str): one of :data:`MODELS`.
        device (str): where it goes.
        small (bool): a narrow model, to try the benchmark.
        depth (int): of the ResNet, if it is not small.

    Returns:
        nn.Module: in eval mode.
    """
    modeling.register()
    torch.manual_seed(0)
    cfg = _small_config(name) if small else _config(name, depth)
    cfg.MODEL.DEVICE = device
    model = build_model(cfg).eval()
    _spread_scores(model)
    _settle(model, device)
    return model


def _spread_scores(model):
    """Let scores differ by more than half precision rounds, so that NMS sees as many in any."""
    if hasattr(model, "roi_heads"):
        layer = model.roi_heads.box_predictor.cls_score
    else:
        layer = model.proposal_generator.fcos_head.cls_logits
    torch.nn.init.normal_(layer.weight, std=0.1)


def _small_config(name):
    if name == "mask_rcnn":
        return config_of("mask-fpn")
    return small_cfg("MODEL.FCOS.NORM", "BN", "MODEL.PANOPTIC_FPN.COMBINE.ENABLED", False)


def _config(name, depth):
    cfg = get_cfg()
    if name == "mask_rcnn":
        cfg.merge_from_file(model_zoo.get_config_file(_MASK_RCNN))
    else:
        from blendprune.modeling.blendmask_config import add_blendmask_config

        add_blendmask_config(cfg)
        cfg.merge_from_list(_BLENDMASK)
    cfg.MODEL.RESNETS.DEPTH = depth
    cfg.MODEL.RESNETS.RES2_OUT_CHANNELS = 256 if depth >= 50 else 64
    return cfg


def pruned_model(dense, images, max_flops, round_to):
    """Prune a copy of a dense model.

    Args:
        dense (nn.Module): from :func:`dense_model`.
        images (list[dict]): that FLOPs count for.
        max_flops (float): FLOPs to keep, as a fraction.
        round_to (int): new widths are multiples of it.

    Returns:
        tuple[nn.Module, float]: the pruned model, and the fraction of FLOPs that is left.
    """
    model = copy.deepcopy(dense)
    report = blendprune.prune(
        model, images, max_flops=max_flops, importance="magnitude", rounds=1, round_to=round_to
    )
    _settle(model, images[0]["image"].device)
    return model, report.flops["after"] / report.flops["before"]


def images_of(height, width, device, count):
    """Random images, with the labels that a training forward reads.

    Args:
        height (int), width (int): in pixels.
        device (str): where the images go.
        count (int): number of images.

    Returns:
        list[dict]: detectron2's format.
    """
    from detectron2.structures import BitMasks, Boxes, Instances

    random = torch.Generator().manual_seed(1)
    found = []
    for _ in range(count):
        image = 255 * torch.rand(3, height, width, generator=random)
        instances = Instances((height, width))
        side = torch.tensor([width, height, width, height])
        corners = torch.tensor([[0.1, 0.1, 0.6, 0.7], [0.3, 0.2, 0.9, 0.9]])
        instances.gt_boxes = Boxes(corners * side)
        instances.gt_classes = torch.zeros(2, dtype=torch.long)
        masks = torch.zeros(2, height, width, dtype=torch.bool)
        for mask, (x0, y0, x1, y1) in zip(masks, instances.gt_boxes.tensor.int().tolist()):
            mask[y0:y1, x0:x1] = True
        instances.gt_masks = BitMasks(masks)
        found.append(
            {
                "image": image.to(device),
                "height": height,
                "width": width,
                "instances": instances,
                "basis_sem": masks.any(0).long(),
            }
        )
    return found


def _settle(model, device):
    settle_norms(model, [{"image": x["image"]} for x in images_of(256, 256, device, 1)])


@torch.no_grad()
def limit_candidates(model, images):
    """Set the threshold of the scores so that NMS works on the same number of boxes everywhere.

    Random weights give all boxes nearly the same score: at a fixed threshold NMS would get none, or
    all of them.

    Args:
        model (nn.Module): changed in place.
        images (list[dict]): one, to find the threshold with.
    """
    if hasattr(model, "roi_heads"):
        predictor, logits = model.roi_heads.box_predictor, []
        predictor.test_score_thresh = 2.0
        hook = predictor.register_forward_hook(lambda m, i, output: logits.append(output[0]))
        model(images)
        hook.remove()
        scores = logits[0].softmax(-1)[:, :-1]
        predictor.test_score_thresh = _threshold(scores)
        return
    generator, logits = model.proposal_generator, []
    generator.fcos_outputs.pre_nms_thresh_test = 2.0
    hook = generator.fcos_head.register_forward_hook(lambda m, i, output: logits.extend(output[0]))
    model(images)
    hook.remove()
    scores = torch.cat([x.flatten() for x in logits]).sigmoid()
    generator.fcos_outputs.pre_nms_thresh_test = _threshold(scores)


def _threshold(scores):
    scores = scores.flatten()
    return float(scores.topk(min(_CANDIDATES, len(scores))).values[-1])
