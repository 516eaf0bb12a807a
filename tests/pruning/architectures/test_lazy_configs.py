"""Small models that only LazyConfigs build: RegNet and detectron2's own FCOS, pruned and used."""

import pytest

from tests.helpers.slow import slow_but
from tests.helpers.small_lazy import FAMILIES, SIZE
from tests.zoo import prune_and_use


@pytest.mark.parametrize("family", slow_but(FAMILIES, "fcos", "regnet-y"))
def test_it_is_pruned_run_trained_and_reloaded(overlay, family):
    found = prune_and_use(FAMILIES[family](), SIZE)
    assert found["params"]["after"] < 0.9 * found["params"]["before"]
