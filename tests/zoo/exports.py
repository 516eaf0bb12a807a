"""Models of the configs: exported, checked, and run by the runtime beside PyTorch."""

import os
import tempfile

import torch

import blendprune
from blendprune.errors import DeployError
from tests.helpers.deployed import assert_same_results

from .batches import training_batch
from .models import build_dense, draw_mask_encoding, few_regions, settle_norms

_DETECTIONS = 20
# What upstream's CondInst leaves in its results, for nobody.
INNER_FIELDS = ("mask_head_params", "pred_global_masks", "im_inds")


def export_and_run(config, size, pruned=False, engine="onnxruntime"):
    """Export the model of a config, and run the files.

    Args:
        config (CfgNode | DictConfig): from :func:`load_config`.
        size (int): side of the image in pixels.
        pruned (bool): prune it to half of its FLOPs before.
        engine (str): that runs the files.

    Returns:
        dict: ``"result"``: green, or why it is refused. Of a model that is exported ``"family"``,
        ``"files"`` and ``"mb"`` (10^6 bytes) of them, and ``"difference"``, the largest one of an
        output to PyTorch.

    Raises:
        AssertionError: the files do not give what the model gives.
    """
    model = build_dense(config, size)
    draw_mask_encoding(model)
    keys = ("image", "proposals", "height", "width")
    # Of one image, the statistics of a map of one pixel would leave nothing but rounding.
    images = [{k: x[k] for k in keys} for x in training_batch(config, size)]
    settle_norms(model, images)
    [first, second] = images
    if pruned:
        blendprune.prune(model, [first], max_flops=0.5, importance="magnitude", rounds=1)
        settle_norms(model, images)
    few_regions(model)
    let_some_through(model)
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "model.onnx")
        try:
            exported = blendprune.export(model.eval(), path, [first])
        except DeployError as error:
            return {"result": f"refused: {error}"}
        detector = blendprune.runtime.load(path, engine, threads=1)
        # Of another size where the model takes one.
        if not detector.settings["image"]["square_size"]:
            second = {**second, "image": second["image"][:, : size * 3 // 4]}
        for image in (first, second):
            assert_runs_alike(model, detector, [image])
    return {
        "result": "green",
        "family": exported.family,
        "files": len(exported.cores),
        "mb": sum(core.bytes for core in exported.cores) / 1e6,
        "difference": max(core.difference for core in exported.cores),
    }


def assert_runs_alike(model, detector, images):
    """Fail unless a detector gives what its model gives.

    Args:
        model (nn.Module): in eval mode.
        detector (Detector): of its files.
        images (list[dict]): in detectron2's format.
    """
    with torch.no_grad():
        wanted = model(images)
    for result in wanted:
        for name in INNER_FIELDS if "instances" in result else ():
            result["instances"]._fields.pop(name, None)
    # Random weights let rounding grow.
    assert_same_results(wanted, detector(images), tolerance=2e-3)


def let_some_through(model):
    """Thresholds at which random weights find something, and not too much."""
    outputs = getattr(getattr(model, "proposal_generator", None), "fcos_outputs", None)
    if outputs is not None:
        outputs.pre_nms_thresh_test, outputs.post_nms_topk_test = 0.001, _DETECTIONS
    for name, value in (
        ("score_threshold", 0.005),
        ("update_threshold", 1e-4),
        ("max_before_nms", 30),
        ("max_detections_per_image", _DETECTIONS),
    ):
        if hasattr(model, name):
            setattr(model, name, value)
