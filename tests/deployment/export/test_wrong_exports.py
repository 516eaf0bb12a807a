"""Wrong calls of ``blendprune.export``: each gets one sentence, and leaves all files alone."""

import sys

import pytest
import torch
from torch import nn

import blendprune
from blendprune.errors import BlendpruneError, DeployError
from tests.helpers.exportable import one_level_retinanet
from tests.helpers.sentences import assert_sentence, contents
from tests.helpers.small_net import residual, small_inputs
from tests.zoo import build_dense

PATHS = [
    (5, "path is 5: pass the path of a file such as 'model.onnx'"),
    (None, "path is None: pass the path of a file such as 'model.onnx'"),
    (
        "model.pth",
        "cannot write to 'model.pth', which does not end in .onnx: name a file such as …",
    ),
    ("", "cannot write to '', which does not end in .onnx: name a file such as 'model.onnx'"),
    (".onnx", "cannot write to '.onnx', which has no name before .onnx: name a file such as …"),
    ("folder", "cannot write to 'folder', which is a folder: name a file in it"),
    ("folder.onnx", "cannot write to 'folder.onnx', which is a folder: name a file in it"),
    (
        "no/model.onnx",
        "cannot write to 'no/model.onnx', whose folder does not exist: make it first",
    ),
    ("file/x.onnx", "cannot write to 'file/x.onnx', whose folder does not exist: make it first"),
]


@pytest.mark.parametrize("path, sentence", PATHS)
def test_a_path_that_cannot_be_written_is_refused(tmp_path, monkeypatch, path, sentence):
    for name in ("folder", "folder.onnx"):
        (tmp_path / name).mkdir()
    (tmp_path / "file").write_text("kept")
    monkeypatch.chdir(tmp_path)
    before = contents(tmp_path)
    with pytest.raises(BlendpruneError) as caught:
        blendprune.export(residual(), path, small_inputs())
    assert_sentence(str(caught.value), sentence)
    assert contents(tmp_path) == before


MODELS = [
    (1, "the model is a int: pass the nn.Module, …"),
    (residual().half(), "a.weight is float16: …"),
    (residual(), "SmallNet has no known cores, which BlendMask, … have: export the modules …"),
    (torch.jit.script(nn.Conv2d(3, 3, 1)), "the model is a torch.jit.ScriptModule, …"),
]


@pytest.mark.parametrize("model, sentence", MODELS, ids=[s[:30] for _, s in MODELS])
def test_a_model_that_cannot_be_exported_is_refused(tmp_path, model, sentence):
    with pytest.raises(BlendpruneError) as caught:
        blendprune.export(model, tmp_path / "model.onnx", small_inputs())
    assert_sentence(str(caught.value), sentence)
    assert contents(tmp_path) == {}


@pytest.mark.parametrize("package", ["onnx", "onnxscript", "onnxruntime"])
def test_a_missing_package_is_named(tmp_path, monkeypatch, package):
    monkeypatch.setitem(sys.modules, package, None)
    model = build_dense(one_level_retinanet(), 64)
    with pytest.raises(DeployError) as caught:
        blendprune.export(model, tmp_path / "model.onnx")
    assert_sentence(
        str(caught.value),
        f"the export to ONNX needs {package}, which is not installed: pip install …[deploy]'",
    )
    assert contents(tmp_path) == {}
