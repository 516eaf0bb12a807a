"""What `blendprune info` says of files."""

import copy
import json

import pytest
import torch
from detectron2.checkpoint import DetectionCheckpointer

import blendprune
from blendprune.__main__ import main
from blendprune.errors import StructError
from blendprune.pipeline.info import describe_file, info_table
from blendprune.pruning import count_flops
from blendprune.pruning.graph.inputs import config_inputs
from tests.deployment.conftest import settled
from tests.helpers.exportable import one_level_retinanet
from tests.helpers.small_blendmask import small_cfg
from tests.helpers.small_net import residual, small_inputs


@pytest.fixture
def model():
    from detectron2.modeling import build_model

    with blendprune.applied():
        blendprune.modeling.register()
        yield build_model(small_cfg("MODEL.DEVICE", "cpu")).eval()


def _saved(model, folder, name, **more):
    DetectionCheckpointer(model, str(folder)).save(name, **more)
    return str(folder / f"{name}.pth")


def test_a_pruned_checkpoint_says_how_much_is_left_and_how_to_load_it(model, tmp_path):
    dense = sum(x.numel() for x in model.state_dict().values())
    report = blendprune.prune(model, max_flops=0.5, importance="magnitude", rounds=1)
    path = _saved(model, tmp_path, "pruned", iteration=7)
    found = describe_file(path)
    assert (found["architecture"], found["pruned"], found["iteration"]) == ("BlendMask", True, 7)
    assert found["values"] == {
        "before": dense,
        "now": sum(x.numel() for x in model.state_dict().values()),
    }
    widths = {
        name: {"before": both["before"], "now": both["after"]}
        for name, both in report.layers.items()
        if both["before"] != both["after"]
    }
    changed = {name: w for name, w in found["widths"].items() if "before" in w}
    assert sorted(map(str, changed.values())) == sorted(map(str, widths.values()))
    flops = sum(count_flops(model, config_inputs(model)).values())
    assert found["gflops"] == pytest.approx(flops / 1e9, abs=1e-3)
    assert found["flops_left"] == pytest.approx(flops / report.flops["before"], abs=1e-3)
    assert isinstance(eval(found["use"].split(";")[0]), type(model))
    table = info_table(found)
    assert f"; {found['flops_left']:.3f} of the dense model's" in table
    assert f"{len(widths)} layers" in table and "MODEL.FINETUNE True" in table


def test_a_file_without_a_config_asks_for_the_dense_model(tmp_path):
    model = residual()
    dense = copy.deepcopy(model)
    blendprune.prune(model, small_inputs(), pruning_ratio=0.5, importance="magnitude")
    path = str(tmp_path / "fork.pth")
    torch.save({"model": model.state_dict(), "struct": blendprune.structure_of(model)}, path)
    use = describe_file(path)["use"]
    assert use.startswith(f"blendprune.load({path!r}, model=model), with the dense model; to train")
    pruned = eval(use.split(", with")[0], {"blendprune": blendprune, "model": dense})
    assert pruned.state_dict().keys() == model.state_dict().keys()


def test_a_dense_checkpoint_and_one_without_a_structure(model, tmp_path, capsys):
    path = _saved(model, tmp_path, "dense")
    assert main(["info", path, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["pruned"] is False and "FINETUNE" not in found["use"] and found["gflops"] > 0
    assert "flops_left" not in found and "of the dense" not in info_table(found)
    blendprune.revert()
    path = _saved(model, tmp_path, "plain")
    found = describe_file(path)
    assert found["pruned"] is None and found["values"]["now"] > 0 and "its config" in found["use"]
    assert 'no "struct"' in info_table(found)


def test_a_model_that_cannot_be_built_is_described_without_flops(model, tmp_path):
    path = _saved(model, tmp_path, "model")
    checkpoint = torch.load(path, weights_only=True)
    other = checkpoint["struct"]["config"].replace("BlendMask", "Unheard", 1)
    torch.save({**checkpoint, "struct": {**checkpoint["struct"], "config": other}}, path)
    found = describe_file(path)
    assert "gflops" not in found and "Unheard" in found["not_counted"]
    assert "not counted" in info_table(found)
    torch.save({**checkpoint, "struct": {**checkpoint["struct"], "modules": 5}}, path)
    with pytest.raises(StructError):
        describe_file(path)


def test_an_exported_file_names_its_family_and_tensors(tmp_path):
    path = str(tmp_path / "model.onnx")
    with blendprune.applied():
        blendprune.export(settled(one_level_retinanet()), path)
    found = describe_file(path)
    assert (found["kind"], found["family"]) == ("exported", "RetinaNet")
    assert found["cores"]["image"]["inputs"] == ["images"] and found["mb"] > 0
    assert isinstance(eval(found["use"]), blendprune.runtime.Detector)
    assert "images →" in info_table(found)


def test_the_version_is_printed(capsys):
    with pytest.raises(SystemExit) as ended:
        main(["--version"])
    assert ended.value.code == 0
    assert capsys.readouterr().out == f"blendprune {blendprune.__version__}\n"
