"""Cores and decoders give what AdelaiDet's models give, dense and pruned."""

import json
import os
import pathlib
import subprocess
import sys

import pytest

from tests.helpers.exported_adelaidet import FAMILIES


@pytest.fixture(scope="module")
def detections(adelaidet_root):
    """Family → numbers of detections, as ``exported_adelaidet`` prints them."""
    process = subprocess.run(
        [sys.executable, "-W", "ignore", "-m", "tests.helpers.exported_adelaidet"],
        cwd=pathlib.Path(__file__).parents[3],
        env={**os.environ, "ADELAIDET_ROOT": adelaidet_root},
        capture_output=True,
        text=True,
    )
    assert process.returncode == 0, process.stderr[-3000:]
    return json.loads(process.stdout.splitlines()[-1])


@pytest.mark.parametrize("family", FAMILIES)
def test_a_family_of_adelaidet_gives_the_same(detections, family):
    assert isinstance(detections[family], list), detections[family]
    assert sum(detections[family]) > 0
