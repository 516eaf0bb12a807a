"""One small model of each family, pruned, trained, saved, loaded and deployed on a device.

::

    python -m tests.helpers.on_device cuda [FAMILY ...]

It runs in a process of its own, because the pretended device stays. It prints one JSON object:
family → ``"green"``, or what went wrong.
"""

import copy
import json
import os
import sys
import tempfile
import traceback
import warnings

import torch

import blendprune
from blendprune import modeling
from blendprune.pruning.tracing.hooks import exact_float32
from tests.helpers import pretended_device
from tests.helpers.deployed import relative_difference
from tests.helpers.exportable import two_level_blendmask
from tests.helpers.small_zoo import TINY, config_of
from tests.pruning.conftest import randomise_norms
from tests.zoo import (
    assert_same,
    build_dense,
    few_regions,
    load_again,
    settle_norms,
    train_one_step,
    training_batch,
)

SIZE = 64
FAMILIES = ("blendmask", "mask-fpn", "keypoint", "cascade", "retinanet", "semantic")


def check(family, device):
    """Take a model through everything.

    Args:
        family (str): of :data:`FAMILIES`.
        device (str): name of a device.

    Raises:
        Exception: something did not come out as it should.
    """
    if family == "blendmask":
        cfg = two_level_blendmask("MODEL.FCOS.NORM", "BN", "MODEL.FPN.OUT_CHANNELS", 32)
    else:
        # The pretended device takes its time for each operator, not for each number.
        cfg = config_of(family, *TINY)
    cfg.MODEL.DEVICE = device
    torch.manual_seed(0)
    model = randomise_norms(build_dense(cfg, SIZE))
    # As loaders give it, on the CPU.
    batch = training_batch(cfg, SIZE)
    images = [{key: x[key] for key in ("image", "height", "width")} for x in batch]
    settle_norms(model, images[:1])
    few_regions(model)
    # Scores from data and refitting take most of the time, and do the same with any model.
    how = {
        "max_flops": 0.7,
        "importance": "obs" if family == "blendmask" else "magnitude",
        "reconstruct": family in ("blendmask", "mask-fpn"),
        "data": [batch],
        "rounds": 1,
    }
    dense, states = copy.deepcopy(model), []
    report = blendprune.prune(model, images[:1], on_round=states.append, **how)
    if family == "semantic":
        _check_going_on(dense, images, states, model, how)
    assert 0.68 < report.flops["after"] / report.flops["before"] <= 0.7
    assert {p.device.type for p in model.parameters()} == {torch.device(device).type}

    train_one_step(model, batch)
    with tempfile.TemporaryDirectory() as folder:
        from detectron2.checkpoint import DetectionCheckpointer

        DetectionCheckpointer(model, folder).save("model")
        loaded = load_again(os.path.join(folder, "model.pth"), cfg, SIZE)
    assert_same(model, loaded, images[:1])
    dtype, tolerance = (torch.bfloat16, 0.1) if family == "blendmask" else (None, 1e-3)
    _check_features(loaded, blendprune.deploy(loaded, images[:1], dtype=dtype), images, tolerance)


def _check_going_on(dense, images, states, model, how):
    # As a file gives it.
    [state] = states
    state["weights"] = {name: value.cpu() for name, value in state["weights"].items()}
    assert "went on" in blendprune.prune(dense, images[:1], resume=state, **how).notes[0]
    ours, theirs = dense.state_dict(), model.state_dict()
    assert all(ours[name].device == value.device for name, value in theirs.items())
    assert all(torch.equal(ours[name], value) for name, value in theirs.items())


def _check_features(model, deployed, images, tolerance):
    seen = []
    handles = [
        each.backbone.register_forward_hook(lambda part, inputs, output: seen.append(output))
        for each in (model, deployed)
    ]
    with torch.no_grad(), exact_float32():
        assert len(model(images[:1])) == len(deployed(images[:1])) == 1
    for handle in handles:
        handle.remove()
    for name, features in seen[0].items():
        assert relative_difference(features.cpu(), seen[1][name].cpu()) < tolerance, name


def main(device, *families):
    """Check all families, or those that are named; print what came of them."""
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    # Of two runs of a model, all bits are compared; cuDNN's transposed convs differ otherwise.
    torch.backends.cudnn.deterministic = True
    if device == pretended_device.NAME:
        pretended_device.enable()
    blendprune.apply()
    modeling.register()
    found = {}
    for family in families or FAMILIES:
        try:
            check(family, device)
            found[family] = "green"
        except Exception:
            found[family] = traceback.format_exc()[-1500:]
    print(json.dumps(found))


if __name__ == "__main__":
    main(*sys.argv[1:])
