"""One small model of each of detectron2's projects that build on its config: pruned and used."""

import pytest

from tests.helpers.slow import slow_but
from tests.helpers.small_projects import FAMILIES, config_of
from tests.zoo import prune_and_use

# The weights that it runs on points are predictions, so that their widths hold.
MAX_FLOPS = {"point-rend-implicit": 0.9}
NOTES = {"point-rend-implicit": ["has weights for its channels"]}


@pytest.mark.parametrize("family", slow_but(FAMILIES, "point-rend-implicit", "deeplab-v3-plus"))
def test_a_model_of_a_project_is_pruned_run_trained_and_reloaded(overlay, family):
    found = prune_and_use(config_of(family), 64, MAX_FLOPS.get(family, 0.5))
    assert found["params"]["after"] < 0.95 * found["params"]["before"]
    known = NOTES.get(family, [])
    assert len(found["notes"]) == len(known)
    assert all(reason in note for reason, note in zip(known, found["notes"]))
