"""Files are run by either engine, and refused in one sentence if they cannot be."""

import copy
import subprocess
import sys

import pytest
import torch
from detectron2.data import transforms
from detectron2.data.detection_utils import convert_PIL_to_numpy
from PIL import Image
from torch.nn import functional as F

import blendprune
from blendprune.errors import ConfigError, DeployError
from tests.helpers.small_onnx import METADATA, write_small

PICTURE = {"format": "BGR", "min_size": 16, "max_size": 30}


@pytest.fixture
def file(tmp_path):
    return tmp_path / "model.onnx"


@pytest.mark.parametrize("engine", ["onnxruntime", "openvino"])
def test_an_engine_gives_what_pytorch_gives(file, engine):
    pytest.importorskip(engine)
    weight = write_small(file)
    images = [{"image": 255 * torch.rand(3, 20, 30), "height": 10, "width": 40}]
    images.append({"image": 255 * torch.rand(3, 24, 17)})
    found = blendprune.runtime.load(file, engine, threads=1)(images)
    assert [x["sem_seg"].shape for x in found] == [(5, 10, 40), (5, 24, 17)]

    mean, std = torch.tensor([100.0, 110, 120]), torch.tensor([2.0, 3, 4])
    image = (images[1]["image"] - mean[:, None, None]) / std[:, None, None]
    # Both images are padded to the larger size, a multiple of 8.
    padded = F.pad(image, (0, 32 - 17, 0, 0))[None]
    logits = F.interpolate(F.conv2d(padded, weight, stride=2), scale_factor=2, mode="bilinear")
    torch.testing.assert_close(found[1]["sem_seg"], logits[0, :, :, :17], atol=1e-3, rtol=1e-4)


def test_no_images_give_no_results(file):
    write_small(file)
    assert blendprune.runtime.load(str(file))([]) == []


@pytest.mark.parametrize(
    "images, found",
    [
        ([{"image": torch.rand(1, 8, 8)}], r"\(1, 8, 8\)"),
        ([{"image": torch.rand(8, 8)}], r"\(8, 8\)"),
        ([{"image": [1, 2]}], "list"),
        ([{}], "NoneType"),
        ([torch.rand(1, 3, 8, 8)], r"\(1, 3, 8, 8\)"),
    ],
)
def test_what_is_no_image_is_refused(file, images, found):
    write_small(file)
    with pytest.raises(DeployError, match=f"an image is {found}: pass .*3, height, width"):
        blendprune.runtime.load(file)(images)


def test_an_unknown_engine_and_a_wrong_number_of_threads_are_refused(file):
    with pytest.raises(ConfigError, match="engine 'openvin' is unknown .*mean 'openvino'"):
        blendprune.runtime.load(file, "openvin")
    with pytest.raises(ConfigError, match="threads must be a whole number of at least 1, got 0"):
        blendprune.runtime.load(file, threads=0)


@pytest.mark.parametrize("package", ["onnx", "onnxruntime", "openvino"])
def test_a_missing_package_is_named(file, monkeypatch, package):
    write_small(file)
    monkeypatch.setitem(sys.modules, package, None)
    engine = "onnxruntime" if package == "onnx" else package
    with pytest.raises(
        DeployError, match=rf"needs {package}, which .*pip install 'blendprune\[depl"
    ):
        blendprune.runtime.load(file, engine)


def refused(file, match):
    with pytest.raises(DeployError, match=match) as caught:
        blendprune.runtime.load(file)
    assert "\n" not in str(caught.value)


def test_what_is_no_exported_file_is_refused(file, tmp_path):
    refused(file, "there is no file .*model.onnx: pass the path")
    refused(tmp_path, "there is no file")
    for content in (b"", b"PK\x03\x04 no model", bytes(1000), b"\x08\x09"):
        file.write_bytes(content)
        refused(file, "is no ONNX file")
    write_small(file, metadata=None)
    refused(file, "has no 'blendprune' metadata.*export the model by blendprune")


@pytest.mark.parametrize(
    "text, match",
    [
        ("{", "is not JSON"),
        ("[" * 100_000, "is not JSON"),
        ("[]", "metadata is \\[\\], not an object"),
        ('{"format": 2}', "has format 2, this blendprune reads formats up to 1: install a newer"),
        ('{"format": "1"}', "is invalid, because metadata lacks the field 'family'"),
        ('{"format": 0}', "lacks the field 'family'"),
    ],
)
def test_metadata_that_is_not_ours_is_refused(file, text, match):
    write_small(file, metadata=text)
    refused(file, match)


def changed(path, value):
    metadata = copy.deepcopy(METADATA)
    *outer, last = path.split(".")
    part = metadata
    for key in outer:
        part = part[key]
    part[last] = value
    return metadata


@pytest.mark.parametrize(
    "path, value, match",
    [
        ("family", "Nothing", "metadata.family is 'Nothing', not one of .*BlendMask"),
        ("family", "RetinaNet", "settings has the field 'sem_seg', which is unknown"),
        ("more", 1, "metadata has the field 'more', which is unknown"),
        ("settings", None, "settings is None, not an object"),
        ("settings.sem_seg.stride", 0, "stride is 0, not a whole number from 1 to 1024"),
        ("settings.sem_seg.stride", True, "stride is True, not a whole number"),
        ("settings.sem_seg.stride", 2.5, "stride is 2.5, not a whole number"),
        ("settings.image.pixel_mean", [1.0, 2.0], "pixel_std is .*, not a list of length 2"),
        ("settings.image.pixel_mean", "abc", "pixel_mean is 'abc', not a list"),
        ("settings.image.pixel_std", [0.0, 1.0, 1.0], r"pixel_std\[0\] is 0.0, not a number from"),
        ("settings.image.pixel_mean", [float("nan"), 1.0, 1.0], r"pixel_mean\[0\] is nan"),
        ("cores", {}, "cores is {}, not an object with 1 to 64 fields"),
        ("cores.image.file", "other.onnx", "file is 'other.onnx', not null"),
        ("cores.image.inputs", [], "inputs is \\[\\], not a list"),
        ("cores.image.outputs", ["../x"], r"outputs\[0\] is '../x', not a name"),
    ],
)
def test_metadata_with_an_invalid_value_is_refused(file, path, value, match):
    write_small(file, metadata=changed(path, value))
    refused(file, match)


@pytest.mark.parametrize(
    "name",
    [
        "../x.onnx",
        "a/b.onnx",
        "/etc/x.onnx",
        "..",
        ".x.onnx",
        "x.so",
        "x\0.onnx",
        "x.onnx\n",
        1,
        None,
    ],
)
def test_a_core_lies_beside_the_file_and_nowhere_else(file, name):
    other = {"file": name, "inputs": ["regions"], "outputs": ["scores"]}
    write_small(file, metadata=changed("cores.box", other))
    refused(file, "metadata.cores.box.file is ")


def test_the_files_of_all_cores_must_be_there_and_have_the_names_of_the_metadata(file, tmp_path):
    other = {"file": "model.box.onnx", "inputs": ["images"], "outputs": ["scores"]}
    write_small(file, metadata=changed("cores.box", other))
    refused(file, "there is no file .*model.box.onnx: copy it from where model.onnx was exported")
    write_small(tmp_path / "model.box.onnx", metadata=None)
    refused(file, "the outputs of .*model.box.onnx differ from its metadata in 'scores'")
    write_small(file, metadata=changed("cores.image.inputs", ["x"]))
    refused(file, "the inputs of .*model.onnx differ from its metadata in 'x'")


def test_outputs_that_cannot_be_decoded_are_told_of(file):
    write_small(file, metadata=changed("settings.image.pixel_mean", [0.0]))
    metadata = changed("settings.image.pixel_mean", [0.0])
    metadata["settings"]["image"]["pixel_std"] = [1.0]
    write_small(file, metadata=metadata)
    with pytest.raises(DeployError, match=r"onnxruntime cannot run images of \(1, 1, 8, 8\) .*: "):
        blendprune.runtime.load(file)([{"image": torch.rand(1, 8, 8)}])


def test_a_name_beside_the_file_may_have_spaces_and_letters_of_any_script(file, tmp_path):
    other = {"file": "Möbel 2.box.onnx", "inputs": ["images"], "outputs": ["scores"]}
    write_small(file, metadata=changed("cores.box", other))
    write_small(tmp_path / "Möbel 2.box.onnx", metadata=None, output="scores")
    assert blendprune.runtime.load(file).family == "SemanticSegmentor"


@pytest.mark.slow
def test_neither_torch_pruning_nor_adelaidet_nor_compiled_operators_are_needed(file):
    write_small(file)
    script = f"""
import sys
for name in ("torch_pruning", "adet", "detectron2._C"):
    sys.modules[name] = None
import torch, blendprune.runtime
[found] = blendprune.runtime.load({str(file)!r})([{{"image": torch.rand(3, 8, 8)}}])
assert found["sem_seg"].shape == (5, 8, 8)
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]


@pytest.mark.parametrize("form", ["BGR", "RGB", "L"])
def test_a_picture_becomes_what_detectron2s_predictor_makes_of_it(file, form):
    picture = Image.fromarray((255 * torch.rand(20, 41, 3)).to(torch.uint8).numpy())
    write_small(file, changed("settings.image.picture", {**PICTURE, "format": form}))
    found = blendprune.runtime.load(file).inputs_of(picture)

    array = convert_PIL_to_numpy(picture, form)
    resize = transforms.ResizeShortestEdge([16, 16], 30)
    wanted = resize.get_transform(array).apply_image(array)
    assert torch.equal(found["image"], torch.tensor(wanted.transpose(2, 0, 1).astype("float32")))
    assert found["image"].shape[1:] == (15, 30)
    assert (found["height"], found["width"]) == (20, 41)


def test_a_picture_is_turned_as_its_camera_says(file):
    picture = Image.new("RGB", (40, 20))
    picture.getexif()[0x0112] = 6  # turn by a quarter
    write_small(file, changed("settings.image.picture", PICTURE))
    found = blendprune.runtime.load(file).inputs_of(picture)
    assert (found["height"], found["width"]) == (40, 20)


def test_a_file_that_does_not_know_its_pictures_says_so(file):
    write_small(file)
    with pytest.raises(DeployError, match="does not say which colours .*: pass tensors"):
        blendprune.runtime.load(file).inputs_of(Image.new("RGB", (8, 8)))
