"""Small models that rounding does not upset, and images for them."""

import pytest

from tests.helpers.small_zoo import config_of
from tests.pruning.conftest import randomise_norms
from tests.zoo import build_dense, few_regions, settle_norms, training_batch

SIZE = 96


def images_of(cfg):
    """Two images to infer on."""
    keys = ("image", "proposals", "height", "width")
    return [{key: x[key] for key in keys} for x in training_batch(cfg, SIZE)]


def settled(cfg, prune=None):
    """A model, dense or pruned, whose batch norms have the statistics of its images.

    Args:
        cfg (CfgNode): of a small model.
        prune (Callable): prunes a model in place.
    """
    model = randomise_norms(build_dense(cfg, SIZE))
    settle_norms(model, images_of(cfg))
    if prune is not None:
        prune(model)
        settle_norms(model, images_of(cfg))
    few_regions(model)
    return model.eval()


@pytest.fixture
def zoo_model(overlay):
    """A function that gives a model of a family of the zoo, and images."""

    def make(family, *opts, prune=None):
        cfg = config_of(family, *opts)
        return settled(cfg, prune), images_of(cfg)

    return make


@pytest.fixture
def blendmask(registered):
    """A function that gives a small BlendMask, and images; the tail overrides its config."""
    from tests.helpers.small_blendmask import small_cfg

    def make(*opts, prune=None):
        cfg = small_cfg("MODEL.FPN.OUT_CHANNELS", 64, *opts)
        return settled(cfg, prune), images_of(cfg)

    return make
