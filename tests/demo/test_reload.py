"""Reloading in a new process: the same outputs, or a sentence."""

import pytest
import torch
from detectron2.modeling import build_model

from blendprune import modeling, structure
from blendprune.demo.reload import are_identical, detections, outputs_in_new_process


@pytest.fixture
def saved(blendmask_cfg, tmp_path):
    modeling.register()
    cfg = blendmask_cfg()
    model = build_model(cfg).eval()
    structure.remember(model, cfg)
    path = str(tmp_path / "model.pth")
    torch.save({"model": model.state_dict(), "struct": structure.structure_of(model)}, path)
    return model, path


def test_a_file_gives_the_same_outputs_in_a_new_process(saved):
    model, path = saved
    images = [torch.rand(3, 64, 64) * 255, torch.rand(3, 96, 64) * 255]
    here = detections(model, images)
    assert sum(len(fields["scores"]) for fields in here) > 0
    assert are_identical(here, outputs_in_new_process(path, images))


def test_one_bit_is_a_difference():
    one = [{"scores": torch.tensor([0.5, 0.25])}]
    assert are_identical(one, [{"scores": torch.tensor([0.5, 0.25])}])
    assert not are_identical(one, [{"scores": torch.tensor([0.5, 0.25 + 2**-25])}])
    assert not are_identical(one, [])
    assert not are_identical(one, [{"boxes": torch.zeros(2, 4)}])


def test_a_file_that_cannot_be_reloaded_shows_what_the_new_process_said(tmp_path):
    with pytest.raises(RuntimeError, match="absent.pth could not be reloaded in a new process"):
        outputs_in_new_process(str(tmp_path / "absent.pth"), [])
