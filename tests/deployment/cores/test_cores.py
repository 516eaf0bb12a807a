"""A model is taken apart into cores that an exporter can trace."""

import json

import pytest
import torch

from blendprune.deployment.cores import FAMILIES, cores_of, pack_metadata, read_metadata
from blendprune.errors import DeployError
from tests.helpers.small_net import SmallNet


def test_a_core_names_its_tensors_and_the_dimensions_that_vary(registered, blendmask):
    model, _ = blendmask("MODEL.PANOPTIC_FPN.COMBINE.ENABLED", False)
    found = cores_of(model)
    core = found.cores["image"]
    assert found.family == "BlendMask" and list(core.inputs) == ["images"]
    assert list(core.outputs)[::5] == [
        "logits_p3",
        "deltas_p3",
        "ctrness_p3",
        "top_feats_p3",
        "bases",
    ]
    axes = core.dynamic_axes()
    assert axes["images"] == {0: "batch", 2: "height", 3: "width"}
    assert axes["bases"] == {0: "batch", 2: "height_bases", 3: "width_bases"}
    example = core.example(batch=1)
    assert example["images"].shape == (1, 3, 256, 384) and core.multiples["height"] == 32
    raw = core(example)
    assert raw.keys() == core.outputs.keys()
    assert all(x.dim() == len(core.outputs[name]) for name, x in raw.items())


@pytest.mark.slow
def test_a_core_exports_with_dimensions_that_vary(zoo_model):
    model, _ = zoo_model("retinanet")
    core = cores_of(model).cores["image"]
    side = {d: torch.export.Dim(d, min=1, max=32) * core.multiples[d] for d in ("height", "width")}
    shapes = {0: torch.export.Dim("batch", max=64), 2: side["height"], 3: side["width"]}
    exported = torch.export.export(
        core.module, tuple(core.example().values()), dynamic_shapes=[shapes], strict=False
    ).module()
    other = core.example(batch=3, height=192, width=160)["images"]
    for a, b in zip(core.module(other), exported(other), strict=True):
        assert torch.allclose(a, b, atol=1e-5)


def test_a_model_of_no_known_family_is_refused_by_the_name_of_its_class():
    net = SmallNet(lambda net, x: x)
    with pytest.raises(DeployError, match=f"SmallNet has no known cores.*{'.*'.join(FAMILIES)}"):
        cores_of(net)


def test_a_subclass_that_decodes_in_its_own_way_is_refused(zoo_model):
    model, _ = zoo_model("retinanet")

    class Mine(type(model)):
        def inference_single_image(self, *args):
            return super().inference_single_image(*args)

    model.__class__ = Mine
    with pytest.raises(DeployError, match="Mine has no known cores"):
        cores_of(model)


def test_metadata_survives_json(zoo_model):
    found = cores_of(zoo_model("retinanet")[0])
    metadata = read_metadata(pack_metadata(found))
    assert metadata.family == "RetinaNet" and metadata.settings == found.settings
    assert metadata.cores["image"].file is None
    assert metadata.cores["image"].outputs == list(found.cores["image"].outputs)
    json.dumps(found.settings, allow_nan=False)
