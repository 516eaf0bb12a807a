"""int8: what is quantized, what stays in float, and what the engines give."""

import collections
import os
import re

import numpy as np
import onnx
import pytest
import torch
from torch import nn

import blendprune
from blendprune.deployment.cores import Core, cores_of, read_metadata
from blendprune.deployment.cores.metadata import CoreNames
from blendprune.deployment.export import exported_table, int8
from blendprune.deployment.export.inputs import core_inputs
from blendprune.deployment.export.int8 import quantize_file
from blendprune.deployment.export.onnx_model import save, to_onnx
from blendprune.deployment.runtime.engines import ENGINES
from blendprune.errors import ConfigError, DeployError
from blendprune.progress import LoggedProgress
from tests.deployment.conftest import images_of, settled
from tests.helpers.exportable import core_of_images, core_of_regions, one_level_retinanet
from tests.helpers.exported import count
from tests.helpers.sentences import assert_sentence
from tests.helpers.small_zoo import TINY, config_of


@pytest.fixture(scope="module")
def quantized(tmp_path_factory):
    """What an export to int8 returns, its file, the model and images."""
    folder = tmp_path_factory.mktemp("int8")
    with blendprune.applied():
        cfg = one_level_retinanet()
        model, images = settled(cfg), images_of(cfg)
        # A loader that does not end.
        data = iter(lambda: images, None)
        found = blendprune.export(model, folder / "int8.onnx", int8=True, data=data, images=4)
        [core] = found.cores
        yield found, core, model, images


def test_layers_are_quantized_but_the_one_that_sees_the_image(quantized):
    found, core, _, _ = quantized
    file = onnx.load(core.file)
    kinds = collections.Counter(node.op_type for node in file.graph.node)
    assert kinds["QuantizeLinear"] > 0 < kinds["DequantizeLinear"]
    makers = {name: node.op_type for node in file.graph.node for name in node.output}
    in_float = [
        node.name
        for node in file.graph.node
        if node.op_type == "Conv" and makers.get(node.input[1]) != "DequantizeLinear"
    ]
    assert sorted(in_float) == sorted(core.int8["float"])
    assert core.int8["float"][0] == "backbone.stem.conv1/Conv"
    assert core.int8["inputs"] == 4 and core.int8["layers"] == kinds["Conv"]
    table = exported_table(found)
    assert "int8 from 4 inputs" in table and "difference before int8" in table.splitlines()[0]


def test_the_file_is_small_and_keeps_its_settings(quantized):
    _, core, model, _ = quantized
    in_float = 4 * sum(p.numel() for p in model.parameters())
    assert os.path.getsize(core.file) == core.bytes < 0.6 * in_float
    [text] = [p.value for p in onnx.load(core.file).metadata_props if p.key == "blendprune"]
    assert read_metadata(text).family == "RetinaNet"


@pytest.mark.parametrize("engine", ENGINES)
def test_both_engines_run_it_and_give_nearly_what_the_model_gives(quantized, engine):
    _, core, model, images = quantized
    names = read_metadata(
        next(p.value for p in onnx.load(core.file).metadata_props if p.key == "blendprune")
    ).cores["image"]
    batch = torch.stack([(x["image"] - model.pixel_mean) / model.pixel_std for x in images])
    with torch.no_grad():
        wanted = cores_of(model).cores["image"]({"images": batch})
    given = ENGINES[engine](core.file, names).run({"images": batch.numpy()})
    for name, value in wanted.items():
        value = value.numpy()
        assert ((given[name] - value) ** 2).mean() < 0.02 * value.var(), name


class Uneven(nn.Module):
    """One channel of the map has numbers that no other channel can be told from zero beside."""

    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 8, 3, padding=1)
        self.c = nn.Conv2d(8, 4, 1)
        with torch.no_grad():
            self.b.weight[0] *= 1e4
            self.c.weight[:, 0] *= 1e-4
        for each in (self.a, self.b, self.c):
            nn.init.zeros_(each.bias)

    def forward(self, images):
        return (self.c(self.b(self.a(images).relu())),)


def _written(module, tmp_path):
    core = core_of_images()
    core = Core(module.eval(), core.inputs, core.outputs, core.multiples, core.sizes)
    save(to_onnx(core, "image"), str(tmp_path / "float.onnx"))
    return str(tmp_path / "float.onnx"), str(tmp_path / "int8.onnx")


def inputs(count=12):
    random = np.random.default_rng(0)
    draw = random.standard_normal
    return [{"images": draw((1, 3, 16, 16), dtype=np.float32)} for _ in range(count)]


def test_a_layer_that_spoils_the_outputs_stays_in_float(tmp_path):
    source, target = _written(Uneven(), tmp_path)
    found = quantize_file(source, target, inputs(), "image", first_in_float=False)
    assert found["float"] == ["c/Conv"] and found["errors"]["map"] < 0.005


def test_the_best_that_was_tried_is_written_and_what_it_misses_is_said(
    quantized, tmp_path, monkeypatch, caplog
):
    _, core, model, images = quantized
    source, tried = str(tmp_path / "float.onnx"), []
    blendprune.export(model, source)
    inputs = core_inputs(source, images)["image"]
    monkeypatch.setattr(int8, "_ERROR", 0.0)
    with LoggedProgress(tried.append).heard():
        facts = quantize_file(source, str(tmp_path / "int8.onnx"), inputs, "image", True)
    found = dict(re.match(r"int8, (\d+) .* error (\S+)", line).groups() for line in tried)
    kept = float(found[str(len(facts["float"]))])
    assert len(found) > 1 and kept == pytest.approx(max(facts["errors"].values()), rel=0.05)
    assert all(kept <= 1.2 * float(each) for each in found.values())
    assert "int8.onnx differs by" in caplog.text and "compare the AP" in caplog.text


def test_a_core_of_regions_takes_one_or_many_in_int8(tmp_path):
    core, files = core_of_regions(), [str(tmp_path / name) for name in ("float.onnx", "int8.onnx")]
    save(to_onnx(core, "regions"), files[0])
    cases = [{"crops": torch.randn(n, 4, 7, 7).numpy()} for n in (1, 5, 16, 2)]
    found = quantize_file(*files, cases, "regions", first_in_float=False)
    assert found["layers"] == 2 and found["float"] == [] and found["errors"]["scores"] < 0.005
    for engine in ENGINES.values():
        runs = engine(files[1], CoreNames(None, ["crops"], ["scores"])).run
        for each in cases:
            with torch.no_grad():
                wanted = core({"crops": torch.from_numpy(each["crops"])})["scores"].numpy()
            assert ((runs(each)["scores"] - wanted) ** 2).mean() < 0.02 * wanted.var()


@pytest.mark.slow
def test_all_cores_of_a_mask_rcnn_become_int8(overlay, tmp_path):
    cfg = config_of("mask-fpn", *TINY)
    model, images = settled(cfg), images_of(cfg)
    data = {"data": [images] * 4, "images": 8}
    exact = blendprune.export(model, tmp_path / "float.onnx", images)
    found = blendprune.export(model, tmp_path / "int8.onnx", images, int8=True, **data)
    assert [core.core for core in found.cores] == ["image", "box", "mask"]
    for core, same in zip(found.cores, exact.cores):
        assert core.int8["inputs"] == 8 and core.bytes < 0.9 * same.bytes
        assert len(core.int8["float"]) <= core.int8["layers"] / 4
    for engine in ENGINES:
        results = blendprune.runtime.load(tmp_path / "int8.onnx", engine, threads=1)(images)
        assert all(count(results)) and results[0]["instances"].has("pred_masks")

    model.roi_heads.box_predictor.test_score_thresh = 2.0
    with pytest.raises(DeployError, match="no calibration image reaches the core 'mask'"):
        blendprune.export(model, tmp_path / "none.onnx", images, int8=True, **data)
    assert not (tmp_path / "none.onnx").exists()


def test_what_onnxruntime_cannot_read_is_refused(tmp_path):
    source, target = tmp_path / "float.onnx", tmp_path / "int8.onnx"
    source.write_bytes(b"no model")
    with pytest.raises(DeployError, match="cannot quantize the core 'image' .*: export it without"):
        quantize_file(str(source), str(target), inputs(1), "image", True)
    assert os.listdir(tmp_path) == ["float.onnx"]


CALLS = [
    ({}, "int8 is calibrated on images: pass data=, batches as detectron2's loaders give them"),
    ({"int8": "yes"}, "int8 is 'yes': pass True or False"),
    ({"data": []}, "data holds no images: pass batches as detectron2's loaders give them"),
    ({"data": [3]}, "data must give lists of dicts with …, but gave a int: pass a …"),
    ({"data": [], "images": 0}, "images must be a whole number of at least 1, got 0: …"),
]


@pytest.mark.parametrize("arguments, sentence", CALLS)
def test_int8_without_images_is_refused(overlay, tmp_path, arguments, sentence):
    model = nn.Module()
    with pytest.raises(ConfigError) as caught:
        blendprune.export(model, tmp_path / "model.onnx", **{"int8": True, **arguments})
    assert_sentence(str(caught.value), sentence)
