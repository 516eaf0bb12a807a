"""Checkpoints: loaded from the file alone, or refused."""

import os

import pytest
import torch
from detectron2.config import CfgNode

import blendprune
from blendprune.checkpoint import checkpoint_id
from blendprune.errors import CheckpointError, StructError
from tests.helpers.net import Net


def test_load_rebuilds_the_model_from_the_file_alone(checkpoint):
    model, path = checkpoint
    loaded = blendprune.load(path)
    ours, theirs = loaded.state_dict(), model.state_dict()
    assert list(ours) == list(theirs)
    assert all(torch.equal(ours[key], theirs[key]) for key in ours)
    assert not loaded.training
    assert loaded.backbone.output_shape() == model.backbone.output_shape()


def test_load_agrees_in_a_new_process_without_the_overlay(fresh_python, checkpoint, tmp_path):
    model, path = checkpoint
    image = torch.rand(3, 64, 64) * 255
    with torch.no_grad():
        expected = model([{"image": image}])[0]["instances"]
    torch.save({"image": image}, tmp_path / "in.pth")
    code = (
        "import sys, torch, blendprune; torch.set_num_threads(1)\n"
        "model = blendprune.load(sys.argv[1])\n"
        "image = torch.load(sys.argv[2])['image']\n"
        "with torch.no_grad(): out = model([{'image': image}])[0]['instances']\n"
        "torch.save([out.pred_boxes.tensor, out.scores, out.pred_masks], sys.argv[3])\n"
    )
    files = [path, str(tmp_path / "in.pth"), str(tmp_path / "out.pth")]
    fresh_python(code, *files)
    found = torch.load(files[2])
    wanted = [expected.pred_boxes.tensor, expected.scores, expected.pred_masks]
    assert len(expected) > 0
    assert all(torch.equal(a, b) for a, b in zip(found, wanted, strict=True))


def test_load_re_shapes_a_model_that_has_no_config(tmp_path):
    small = Net(4)
    path = str(tmp_path / "net.pth")
    torch.save({"model": small.state_dict(), "struct": blendprune.structure_of(small)}, path)
    with pytest.raises(StructError, match="has no config: pass the dense model"):
        blendprune.load(path)
    loaded = blendprune.load(path, model=Net(8))
    assert torch.equal(loaded.conv.weight, small.conv.weight)


def test_a_truncated_file_is_named_as_such(checkpoint):
    _, path = checkpoint
    with open(path, "r+b") as file:
        file.truncate(os.path.getsize(path) // 2)
    with pytest.raises(CheckpointError, match="truncated"):
        blendprune.load(path)


def test_a_missing_file_is_named_as_such(tmp_path):
    with pytest.raises(CheckpointError, match="cannot open the model file .*check the path"):
        blendprune.load(str(tmp_path / "none.pth"))


@pytest.mark.parametrize("content", [b"", b"junk", b"PK\x03\x04junk", b"\x80\x02."])
def test_a_file_of_another_kind_is_refused(tmp_path, content):
    path = tmp_path / "junk.pth"
    path.write_bytes(content)
    with pytest.raises(CheckpointError):
        blendprune.load(str(path))


def test_weights_that_do_not_fit_their_own_structure_are_refused(checkpoint):
    _, path = checkpoint
    content = torch.load(path)
    content["model"]["top_layer.bias"] = torch.zeros(3)
    torch.save(content, path)
    with pytest.raises(CheckpointError, match='do not fit its own "struct"'):
        blendprune.load(path)


def test_an_id_is_read_from_a_config_as_it_was_written():
    for number in range(5000):  # of 16 hexadecimal digits, one in 770 is a number: 00e8478179053984
        node = CfgNode({"ID": checkpoint_id({"w": torch.tensor([number])})})
        read = CfgNode({"ID": ""})
        read.merge_from_other_cfg(CfgNode.load_cfg(node.dump()) if number < 9 else node)
        assert read.ID == node.ID
