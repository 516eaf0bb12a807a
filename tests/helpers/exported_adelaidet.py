"""Detectors of AdelaiDet's families beside their models.

::

    ADELAIDET_ROOT=~/AdelaiDet python -m tests.helpers.exported_adelaidet

It runs in a process of its own, as ``small_adelaidet`` does, and prints one JSON object: family →
number of detections of each image, or a traceback.
"""

import json
import os
import sys
import traceback
import warnings

if __name__ == "__main__":
    sys.path.insert(0, os.environ["ADELAIDET_ROOT"])

import torch

import blendprune
from tests.helpers.exported import assert_same, count, detector_of, instances_of
from tests.helpers.small_adelaidet import build
from tests.pruning.conftest import randomise_norms
from tests.zoo import settle_norms
from tests.zoo.exports import INNER_FIELDS, let_some_through

FAMILIES = {
    "blendmask": {"pred_boxes", "pred_masks"},
    "fcos": {"pred_boxes"},
    "condinst-sem": {"pred_boxes", "pred_masks"},
    "boxinst-bifpn": {"pred_boxes", "pred_masks"},
    "solov2": {"pred_masks"},
}
# Our own BlendMask and FCOS are pruned by other tests.
PRUNED = ("condinst-sem", "solov2")


def images():
    """Two of different sizes, with results of other sizes."""
    first, second = (255 * torch.rand(3, *size) for size in ((192, 192), (140, 170)))
    return [
        {"image": first, "height": 150, "width": 230},
        {"image": second, "height": 150, "width": 130},
    ]


def let_nothing_through(model):
    if hasattr(model, "proposal_generator"):
        model.proposal_generator.fcos_outputs.pre_nms_thresh_test = 2.0
    else:
        model.score_threshold = 2.0


def compare(family, prune):
    """Counts of a model's detections, which its detector gives, too."""
    model = randomise_norms(build(family))
    batch = images()
    settle_norms(model, batch[:1])
    if prune:
        blendprune.prune(model, batch[:1], max_flops=0.6, importance="magnitude", rounds=1)
        settle_norms(model, batch[:1])
    let_some_through(model)
    # Upstream's CondInst cannot take images of two sizes at once.
    batches = [batch[:1], batch[1:]] if "inst" in family else [batch]
    detector, found = detector_of(model.eval()), []
    for each in batches:
        with torch.no_grad():
            expected = model(each)
        for result in expected:
            for name in INNER_FIELDS:
                result["instances"]._fields.pop(name, None)
            assert FAMILIES[family] <= instances_of(result).get_fields().keys()
        assert_same(expected, detector(each))
        found += count(expected)
    if "inst" in family:
        assert [count(detector([x])) for x in batch] == [[n] for n in found]
    let_nothing_through(model)
    none = detector_of(model)(batch)
    assert count(none) == [0, 0]
    assert FAMILIES[family] <= instances_of(none[0]).get_fields().keys()
    return found


def main():
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    blendprune.apply()
    found = {}
    for family in FAMILIES:
        torch.manual_seed(0)
        try:
            found[family] = compare(family, False)
            if family in PRUNED:
                found[family] += compare(family, True)
        except Exception:
            found[family] = traceback.format_exc()
    print(json.dumps(found))


if __name__ == "__main__":
    main()
