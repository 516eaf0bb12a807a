"""What every test shares: one thread, a fixed seed, and AdelaiDet where there is one."""

import importlib.util
import os
import sys

import pytest
import torch


def pytest_configure(config):
    torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


@pytest.fixture
def overlay():
    """The patch set, applied for one test."""
    import blendprune

    with blendprune.applied():
        yield blendprune


@pytest.fixture(scope="session")
def adelaidet_root():
    """Path of an importable AdelaiDet checkout; skips where there is none."""
    root = os.environ.get("ADELAIDET_ROOT")
    if root:
        return root
    spec = importlib.util.find_spec("adet")
    if spec is None:
        pytest.skip("AdelaiDet is not importable; set ADELAIDET_ROOT to a checkout")
    return os.path.dirname(os.path.dirname(spec.origin))


@pytest.fixture(scope="session")
def adelaidet(adelaidet_root):
    """AdelaiDet itself, imported, with the placeholder for its extension if it is not compiled."""
    if adelaidet_root not in sys.path:
        sys.path.insert(0, adelaidet_root)
    from blendprune.overlay.adelaidet import _Finder

    finder = _Finder()
    sys.meta_path.append(finder)
    try:
        import adet
    finally:
        sys.meta_path.remove(finder)
    return adet
