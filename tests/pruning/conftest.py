"""Small BlendMasks of our own, and batches to train them on."""

import pytest
import torch
from torch import nn


@pytest.fixture
def blendmask(small_blendmasks):
    """A function that builds a small BlendMask in eval mode; the tail overrides its config."""
    from blendprune import modeling

    def make(*opts):
        modeling.register()
        return randomise_norms(small_blendmasks(*opts).eval())

    return make


def randomise_norms(model):
    """Give norms weights and statistics that are no identity, so that mistakes show."""
    from blendprune.pruning.tracing.layer_kinds import is_norm

    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for module in model.modules():
            if is_norm(module):
                for name, low, high in (
                    ("weight", 0.5, 1.5),
                    ("bias", -0.2, 0.2),
                    ("running_mean", -0.2, 0.2),
                    ("running_var", 0.5, 1.5),
                ):
                    tensor = getattr(module, name, None)
                    if tensor is not None:
                        noise = torch.rand(tensor.shape, generator=generator)
                        tensor.copy_(low + (high - low) * noise)
    return model


@pytest.fixture
def randomise():
    """A function that leaves no norm an identity and no layer without weights."""

    def make(model):
        for module in model.modules():
            # Upstream starts the offsets of deformable convs at zero.
            if isinstance(module, nn.Conv2d) and not module.weight.any():
                nn.init.normal_(module.weight, std=0.05)
        return randomise_norms(model)

    return make


@pytest.fixture(scope="session")
def zoo_models():
    """A function that builds a small model of a family of the zoo in eval mode, each once."""
    from detectron2.modeling import build_model

    from tests.helpers.made_once import MadeOnce
    from tests.helpers.small_zoo import config_of

    return MadeOnce(lambda family, *opts: build_model(config_of(family, *opts)).eval())


@pytest.fixture
def build(overlay, zoo_models):
    """A function that builds a small model of a family of the zoo in eval mode."""
    return zoo_models


@pytest.fixture
def images():
    """One image to trace and count with."""
    return [{"image": 255 * torch.rand(3, 64, 64, generator=torch.Generator().manual_seed(0))}]


@pytest.fixture
def batches():
    """Two batches of two images with instances, basis and panoptic labels."""
    return [training_batch(seed) for seed in range(2)]


def training_batch(seed, size=64, count=2):
    from detectron2.structures import BitMasks, Boxes, Instances

    generator = torch.Generator().manual_seed(seed)
    batch = []
    for _ in range(count):
        masks = torch.zeros(2, size, size, dtype=torch.bool)
        masks[0, 4:40, 6:50] = True
        masks[1, 30:60, 20:62] = True
        instances = Instances((size, size))
        instances.gt_boxes = Boxes(torch.tensor([[6.0, 4.0, 50.0, 40.0], [20.0, 30.0, 62.0, 60.0]]))
        instances.gt_classes = torch.randint(0, 3, (2,), generator=generator)
        instances.gt_masks = BitMasks(masks)
        batch.append(
            {
                "image": 255 * torch.rand(3, size, size, generator=generator),
                "instances": instances,
                "basis_sem": masks.any(0).long(),
                "sem_seg": masks[0].long(),
            }
        )
    return batch
