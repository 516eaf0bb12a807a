"""An exported file: what is in it, and what it gives."""

import os

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from detectron2.modeling import build_model

import blendprune
from blendprune.deployment.cores import cores_of, read_metadata
from blendprune.deployment.export import exported_table
from blendprune.deployment.session import open_session
from blendprune.errors import DeployError
from tests.deployment.conftest import settled
from tests.helpers import small_lazy, small_projects, small_transformers, small_zoo
from tests.helpers.deployed import assert_same_results
from tests.helpers.exportable import one_level_retinanet, two_level_blendmask
from tests.helpers.exported import two_sizes
from tests.helpers.small_blendmask import PANOPTIC
from tests.helpers.state import remember, unchanged
from tests.zoo.exports import export_and_run
from tests.zoo.models import settle_norms

ENGINES = ("onnxruntime", "openvino")


def pruned(model):
    blendprune.prune(model, pruning_ratio=0.4, importance="magnitude", rounds=1)


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """A pruned BlendMask, what its export returns, and its file."""
    with blendprune.applied():
        blendprune.modeling.register()
        model = settled(two_level_blendmask(), pruned)
        path = str(tmp_path_factory.mktemp("exported") / "model.onnx")
        before = remember(model)
        found = blendprune.export(model, path)
        assert unchanged(model, before)
        yield model, found, path


def test_one_file_holds_weights_settings_and_names(exported):
    model, found, path = exported
    assert os.listdir(os.path.dirname(path)) == ["model.onnx"]
    file = onnx.load(path)
    [text] = [p.value for p in file.metadata_props if p.key == "blendprune"]
    metadata, cores = read_metadata(text), cores_of(model)
    assert (metadata.family, metadata.settings) == ("BlendMask", cores.settings)
    assert metadata.cores["image"].inputs == [each.name for each in file.graph.input]
    assert metadata.cores["image"].outputs == [each.name for each in file.graph.output]
    assert {"logits_p2", "deltas_p3", "top_feats_p2", "bases"} < set(
        metadata.cores["image"].outputs
    )

    [core] = found.cores
    assert (core.file, core.bytes) == (path, os.path.getsize(path))
    assert core.opset == max(each.version for each in file.opset_import)
    assert core.inputs == {"images": ["batch", 3, "height", "width"]}
    assert core.outputs["logits_p2"] == ["batch", 5, "height_logits_p2", "width_logits_p2"]
    assert 0 < core.difference < 1e-4
    assert "images (batch, 3, height, width)" in exported_table(found)
    assert exported_table(found).splitlines()[0].endswith("  difference")


def test_nodes_are_named_after_modules_and_no_path_of_this_machine_is_in_the_file(exported):
    model, _, path = exported
    names = [node.name for node in onnx.load(path).graph.node]
    assert len(set(names)) == len(names)
    assert {"backbone.bottom_up.stem.conv1/Conv", "fcos_head.cls_logits/Conv_2"} < set(names)
    with open(path, "rb") as file:
        content = file.read()
    assert b"site-packages" not in content and os.path.dirname(path).encode() not in content


def test_batch_norms_are_folded(exported):
    kinds = [node.op_type for node in onnx.load(exported[2]).graph.node]
    assert "BatchNormalization" not in kinds and "Conv" in kinds


@pytest.mark.parametrize("size", [(1, 40, 200), (5, 72, 56)])
def test_the_file_gives_what_the_model_gives(exported, size):
    model, _, path = exported
    batch, height, width = size
    images = torch.randn(batch, 3, height, width)
    core = cores_of(model).cores["image"]
    with torch.no_grad():
        wanted = core({"images": images})
    session = onnxruntime.InferenceSession(path)
    found = dict(zip(wanted, session.run(list(wanted), {"images": images.numpy()})))
    for name, value in wanted.items():
        scale = float(value.abs().max())
        assert np.abs(found[name] - value.numpy()).max() <= 1e-4 * scale, name


@pytest.mark.parametrize("engine", ENGINES)
def test_the_runtime_gives_from_the_file_what_the_model_gives(exported, engine):
    model, _, path = exported
    sizes = ((64, 64), (48, 40))
    images = [{"image": 255 * torch.rand(3, *size), "height": 50, "width": 90} for size in sizes]
    with torch.no_grad():
        wanted = model(images)
    found = blendprune.runtime.load(path, engine, threads=1)(images)
    assert all(len(each["instances"]) for each in wanted)
    assert_same_results(wanted, found)


@pytest.mark.slow
def test_an_export_replaces_an_older_one_whole(overlay, tmp_path):
    model = settled(one_level_retinanet())
    path = tmp_path / "model.onnx"
    path.write_bytes(b"old")
    found = blendprune.export(model, path)
    assert os.listdir(tmp_path) == ["model.onnx"]
    assert found.family == "RetinaNet" and found.cores[0].bytes == path.stat().st_size
    open_session(str(path))


def test_what_no_exporter_can_trace_is_refused_and_leaves_the_old_file(overlay, tmp_path):
    model = settled(one_level_retinanet())
    path = tmp_path / "model.onnx"
    path.write_bytes(b"old")
    model.backbone.stem.conv1.activation = in_numpy
    with pytest.raises(DeployError, match=r"cannot export the core 'image' to ONNX \(.*\): instal"):
        blendprune.export(model, path)
    assert os.listdir(tmp_path) == ["model.onnx"] and path.read_bytes() == b"old"


def in_numpy(x):
    return torch.from_numpy(np.maximum(x.numpy(), 0))


@pytest.mark.slow
def test_a_whole_blendmask_exports_with_its_panoptic_branch_and_deformable_convs(
    blendmask, tmp_path
):
    model, _ = blendmask(*PANOPTIC, "MODEL.FCOS.USE_DEFORMABLE", True)
    [core] = blendprune.export(model, tmp_path / "model.onnx").cores
    assert core.difference < 1e-4 and "sem_seg" in core.outputs
    assert "DeformConv" in {node.op_type for node in onnx.load(core.file).graph.node}


@pytest.mark.slow
@pytest.mark.parametrize(
    "towers, rest", [("BN", "FrozenBN"), ("SyncBN", "SyncBN"), ("NaiveGN", "GN"), ("none", "LN")]
)
def test_every_norm_exports(registered, tmp_path, towers, rest):
    keys = ("MODEL.RESNETS.NORM", "MODEL.FPN.NORM", "MODEL.BASIS_MODULE.NORM")
    opts = [each for key in keys for each in (key, rest)]
    opts += ["MODEL.FCOS.NORM", towers, "MODEL.BASIS_MODULE.CONVS_DIM", 32]
    model = settled(two_level_blendmask(*opts))
    assert blendprune.export(model, tmp_path / "model.onnx").cores[0].difference < 1e-4


@pytest.mark.slow
@pytest.mark.parametrize("family", ["panoptic", "mask-c4", "keypoint"])
def test_regions_get_files_of_their_own(zoo_model, tmp_path, family):
    model, images = zoo_model(family, prune=pruned)
    found = blendprune.export(model, tmp_path / "model.onnx", images)
    names = [core.core for core in found.cores]
    files = ["model.onnx", *(f"model.{name}.onnx" for name in names[1:])]
    assert names[:2] == ["image", "box"] and len(names) == 3
    assert [os.path.basename(core.file) for core in found.cores] == files
    assert sorted(os.listdir(tmp_path)) == sorted(files)
    assert all(core.difference < 1e-4 for core in found.cores)
    [text] = [p.value for p in onnx.load(tmp_path / "model.onnx").metadata_props]
    assert [each.file for each in read_metadata(text).cores.values()] == [None, *files[1:]]
    images = two_sizes(images)
    for engine in ENGINES:
        detector = blendprune.runtime.load(tmp_path / "model.onnx", engine, threads=1)
        with torch.no_grad():
            assert_same_results(model(images), detector(images))


MORE = {
    "fcos-of-detectron2": lambda: small_lazy.fcos(),
    "semantic": lambda: small_zoo.config_of("semantic", "MODEL.RESNETS.DEPTH", 18),
    "deeplab-v3": lambda: small_projects.config_of("deeplab-v3"),
    "deeplab-v3-plus": lambda: small_projects.config_of("deeplab-v3-plus"),
    "vitdet": lambda: small_transformers.config_of("vitdet"),
    "swin": lambda: small_transformers.config_of("swin"),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", MORE)
def test_further_families_export_and_run(overlay, name):
    size = small_transformers.SIZE if name in small_transformers.FAMILIES else 96
    smaller, engine = name in ("deeplab-v3", "vitdet"), ENGINES[name == "swin"]
    assert export_and_run(MORE[name](), size, smaller, engine)["result"] == "green"


@pytest.mark.slow
@pytest.mark.parametrize("family", ["deeplab-v3", "deeplab-v3-plus"])
def test_a_deeplab_that_pools_windows_of_its_crop_takes_multiples_of_it(overlay, family, tmp_path):
    crop = ("INPUT.CROP.ENABLED", True, "INPUT.CROP.TYPE", "absolute", "INPUT.CROP.SIZE", [32, 96])
    model = build_model(small_projects.config_of(family, *crop)).eval()
    images = [[{"image": 255 * torch.rand(3, *size)}] for size in ((64, 96), (32, 192))]
    settle_norms(model, images[0])
    blendprune.export(model, tmp_path / "model.onnx", images[0])
    for engine in ENGINES:
        detector = blendprune.runtime.load(tmp_path / "model.onnx", engine, threads=1)
        for image in images:
            with torch.no_grad():
                assert_same_results(model(image), detector(image))
        # Upstream's model refuses it, too.
        with pytest.raises(DeployError, match="image of 48 x 96 .* multiples of 32 x 96"):
            detector([{"image": 255 * torch.rand(3, 48, 96)}])
