"""One small model of each family of detectron2's model zoo: pruned, used, reloaded."""

import pytest
import torch

from tests.helpers.outputs import predictions_of
from tests.helpers.silent_channels import prune_the_dead, silence_half_of_every_group
from tests.helpers.slow import slow_but
from tests.helpers.small_zoo import FAMILIES, config_of
from tests.zoo import prune_and_use, settle_norms

# A group norm mixes channels: taking away a silent one changes the rest.
WITHOUT_MIXING = [name for name in FAMILIES if name not in ("group-norm", "panoptic", "semantic")]


# Others differ from these in what their own tests show.
QUICK = ("mask-fpn", "mask-c4", "keypoint", "retinanet", "panoptic", "resnext", "modulated")
QUICK += ("group-norm", "box-given-proposals")


@pytest.mark.parametrize("family", slow_but(FAMILIES, *QUICK))
def test_a_zoo_model_is_pruned_but_for_its_prediction_layers_run_trained_and_reloaded(
    overlay, family
):
    found = prune_and_use(config_of(family), size=64)
    assert found["params"]["after"] < 0.9 * found["params"]["before"]
    # Group norms of 32 groups do not divide some of its widths.
    assert found["notes"] == [] or family == "group-norm"


@pytest.mark.parametrize("family", slow_but(WITHOUT_MIXING, "modulated", "retinanet"))
def test_removing_silent_channels_changes_no_output(build, images, randomise, family):
    model = randomise(build(family))
    settle_norms(model, images)
    dead = silence_half_of_every_group(model, images)
    before = predictions_of(model, images)
    prune_the_dead(model, images, dead)
    after = predictions_of(model, images)
    assert len(before) == len(after) > 0
    for a, b in zip(after, before):
        assert b.abs().max() > 0
        assert torch.allclose(a, b, atol=1e-3 * b.abs().max().item())
