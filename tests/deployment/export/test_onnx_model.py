"""The file of a core: its trace, its names, weights beside it."""

import os

import onnx
import torch

from blendprune.deployment.export import onnx_model
from blendprune.deployment.export.check import check_file
from tests.helpers.exportable import core_of_images, core_of_regions


def test_regions_may_be_one_or_many(tmp_path):
    core, path = core_of_regions(), str(tmp_path / "regions.onnx")
    onnx_model.save(onnx_model.to_onnx(core, "regions"), path)
    assert check_file(path, core, "regions") < 1e-4
    [crops] = onnx.load(path).graph.input
    assert [d.dim_param or d.dim_value for d in crops.type.tensor_type.shape.dim] == [
        *("regions", 4, 7, 7)
    ]


def test_weights_that_do_not_fit_lie_in_a_file_beside_it(tmp_path, monkeypatch):
    core, path = core_of_images(), str(tmp_path / "model.onnx")
    monkeypatch.setattr(onnx_model, "_LARGEST", 400)
    onnx_model.save(onnx_model.to_onnx(core, "image"), path)
    assert sorted(os.listdir(tmp_path)) == ["model.onnx", "model.onnx.data"]
    assert check_file(path, core, "image") < 1e-4


def test_sides_of_a_trace_are_multiples_that_no_stride_of_a_pyramid_takes_to_one():
    core = core_of_images()
    core.multiples.update(height=32, width=32)
    sizes = onnx_model.trace_sizes(core)
    assert sizes["height"] % 32 == sizes["width"] % 32 == 0
    assert sizes["height"] != sizes["width"] and min(sizes["height"], sizes["width"]) > 2 * 128
    assert sizes["batch"] > 1
    torch.testing.assert_close(core.example(**sizes)["images"].shape[0], sizes["batch"])
