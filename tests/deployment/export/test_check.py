"""The check of a file: what it lets through, and what it finds."""

import pytest
import torch

from blendprune.deployment.export.check import check_file
from blendprune.deployment.export.onnx_model import save, to_onnx
from blendprune.errors import DeployError
from tests.helpers.exportable import core_of_images


def written(core, tmp_path):
    path = str(tmp_path / "model.onnx")
    save(to_onnx(core, "image"), path)
    return path


def other_when_traced(x):
    """One that the exporter sees differently."""
    return x * 1.001 if torch.compiler.is_compiling() else x


def test_an_output_that_differs_is_named_with_its_difference(tmp_path):
    core = core_of_images(other_when_traced)
    with pytest.raises(
        DeployError, match=r"map of the core 'image' differs by 1\.0e-03 .* PyTorch"
    ):
        check_file(written(core, tmp_path), core, "image")


def fixed_to_small(x):
    """What holds for the sizes of a trace alone."""
    return x + (1 if x.shape[2] > 100 and torch.compiler.is_compiling() else 0)


def test_what_holds_for_the_traced_sizes_alone_is_found(tmp_path):
    core = core_of_images(fixed_to_small)
    with pytest.raises(DeployError, match=r"map of the core 'image' differs"):
        check_file(written(core, tmp_path), core, "image")


def only_the_first(x):
    """A batch of one repeated: right for one image."""
    return x[:1].expand_as(x) if torch.compiler.is_compiling() else x


def test_images_that_are_mixed_up_are_found(tmp_path):
    core = core_of_images(only_the_first)
    with pytest.raises(DeployError, match=r"map of the core 'image' differs .*\(2, 3, "):
        check_file(written(core, tmp_path), core, "image")


def not_too_small(x):
    """As pyramids that fuse levels in both directions, which must not have one row."""
    if x.shape[2] < 40:
        raise NotImplementedError
    return x


def test_a_model_that_takes_no_small_image_is_checked_on_larger_ones(tmp_path):
    core = core_of_images(not_too_small)
    assert check_file(written(core, tmp_path), core, "image") < 1e-4


def only_when_traced(x):
    if not torch.compiler.is_compiling():
        raise NotImplementedError("no image at all")
    return x


def test_a_model_that_does_not_run_is_named_with_its_error(tmp_path):
    core = core_of_images(only_when_traced)
    with pytest.raises(
        DeployError, match=r"core 'image' does not run at images \(2, .*no image at"
    ):
        check_file(written(core, tmp_path), core, "image")


def cancelling(x):
    """What float32 rounds away."""
    return (x + 3e4) - 3e4


def test_numbers_that_float32_rounds_away_in_pytorch_too_do_not_count(tmp_path):
    core = core_of_images(cancelling)
    # What onnxruntime computes is moved by a rounding of the conv, and no more.
    assert 1e-4 < check_file(written(core, tmp_path), core, "image") < 0.1


def test_a_file_that_no_engine_reads_is_refused(tmp_path):
    path = tmp_path / "model.onnx"
    path.write_bytes(b"no model")
    with pytest.raises(
        DeployError, match="onnxruntime .* cannot read the core 'image' .*: install"
    ):
        check_file(str(path), core_of_images(), "image")
