"""`python -m benchmarks.accuracy --dataset DIR`: a tiny folder in COCO's format."""

import json

import numpy as np
import pytest
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog
from PIL import Image
from pycocotools import mask as mask_utils

from benchmarks.accuracy.__main__ import main
from benchmarks.accuracy.data import coco_folder
from benchmarks.accuracy.models import MODELS, dense_config
from blendprune.errors import ConfigError

SIZES = """
all:
  INPUT: {MASK_FORMAT: "bitmask", MIN_SIZE_TRAIN: [64], MIN_SIZE_TEST: 64}
BlendMask:
  MODEL: {FCOS: {IN_FEATURES: ["p2", "p3"], FPN_STRIDES: [4, 8], SIZES_OF_INTEREST: [12]}}
"""
# Too little to learn anything.
QUICK = [
    *("--models", "blendmask", "--seeds", "1", "--methods", "blendprune", "--levels", "0.5"),
    *("--recipes", "alone", "5%", "--iterations", "2", "--batch", "2", "--workers", "0", "--"),
    *("PRUNER.CALIBRATION_IMAGES", "2", "PRUNER.ROUNDS", "1", "MODEL.FPN.OUT_CHANNELS", "32"),
]


@pytest.fixture
def folder(tmp_path):
    """Three images a split, of two classes; no category has the id of its position."""
    root = tmp_path / "shapes"
    (root / "annotations").mkdir(parents=True)
    random = np.random.default_rng(0)
    for split in ("train", "val"):
        (root / split).mkdir()
        records = {
            "images": [],
            "annotations": [],
            "categories": [{"id": 7, "name": "disk"}, {"id": 3, "name": "square"}],
        }
        for number in range(3):
            pixels = random.integers(0, 60, (64, 80, 3)).astype(np.uint8)
            record = {"id": number, "file_name": f"{number}.png", "height": 64, "width": 80}
            records["images"].append(record)
            for which, category in enumerate((3, 7)):
                mask = np.zeros((64, 80), np.uint8, order="F")
                top, left = (int(x) for x in random.integers(0, 30, 2))
                mask[top : top + 20, left + 20 * which : left + 20 * which + 16] = 1
                pixels[mask == 1] += 150
                rle = mask_utils.encode(mask)
                records["annotations"].append(
                    {
                        "id": 2 * number + which + 1,
                        "image_id": number,
                        "category_id": category,
                        "bbox": mask_utils.toBbox(rle).tolist(),
                        "area": int(mask.sum()),
                        "iscrowd": 0,
                        "segmentation": rle | {"counts": rle["counts"].decode()},
                    }
                )
            Image.fromarray(pixels).save(root / split / f"{number}.png")
        (root / "annotations" / f"{split}.json").write_text(json.dumps(records))
    (tmp_path / "sizes.yaml").write_text(SIZES)
    yield root
    for name in DatasetCatalog.list():
        if name.startswith(("shapes_", "nuclei_")):
            DatasetCatalog.remove(name)
            MetadataCatalog.remove(name)


@pytest.mark.slow
def test_a_folder_goes_from_training_to_the_table_and_no_step_runs_twice(
    overlay, folder, tmp_path, capsys
):
    output = tmp_path / "output"
    flags = ["--dataset", str(folder), "--sizes", str(tmp_path / "sizes.yaml")]
    flags += ["--output", str(output)]

    main([*flags, "--budget", "0", *QUICK])
    assert "steps are left" in capsys.readouterr().out

    main([*flags, *QUICK])
    shown = capsys.readouterr().out
    results = json.loads((output / "blendmask" / "1" / "results.json").read_text())
    steps = ["dense", "blendprune 0.5", "blendprune 0.5, fine-tuned without a teacher"]
    steps.append("blendprune 0.5, fine-tuned for 5 %")
    controls = ["dense, trained on", "dense, trained on for 5 %"]
    for step in (*steps, *controls):
        assert 0 <= results[step]["segm"] <= 100 and 0 <= results[step]["bbox"] <= 100
        assert f"{step}: " in shown
    assert results["blendprune 0.5"]["flops"] <= 0.5
    assert set(results["latency"]) == {*steps, "wall_s"}
    assert "| blendprune, fine-tuned for 5 % " in shown and "| dense, trained on for 5 % " in shown
    assert "| FLOPs left" in shown and "steps are left" not in shown

    model = output / "blendmask" / "1" / "blendprune" / "to_0.5" / "model_pruned.pth"
    names = torch.load(model, weights_only=True)["model"]
    assert len(names["proposal_generator.fcos_head.cls_logits.weight"]) == 2

    main([*flags, *QUICK])
    assert "dense: " not in capsys.readouterr().out

    with pytest.raises(SystemExit):
        main([*flags, *QUICK, "SOLVER.BASE_LR", "0.5"])
    assert "results with SOLVER.BASE_LR 0.002, not 0.5" in capsys.readouterr().err


@pytest.mark.parametrize("model", MODELS)
def test_the_sizes_for_nuclei_are_keys_of_every_model(overlay, folder, model):
    nuclei = folder.rename(folder.with_name(".nuclei"))
    data = coco_folder(nuclei)
    cfg = dense_config(model, 1, data)
    assert (cfg.DATASETS.TRAIN, cfg.DATASETS.TEST) == (("nuclei_train",), ("nuclei_val",))
    assert cfg.MODEL.FCOS.NUM_CLASSES == cfg.MODEL.ROI_HEADS.NUM_CLASSES == 2
    assert cfg.MODEL.RETINANET.NUM_CLASSES == cfg.MODEL.BASIS_MODULE.NUM_CLASSES == 2
    assert cfg.INPUT.MIN_SIZE_TEST == 256 and cfg.TEST.DETECTIONS_PER_IMAGE == 100
    assert MetadataCatalog.get("nuclei_train").thing_classes == ["square", "disk"]


def test_another_layout_is_refused(folder):
    (folder / "val").rename(folder / "test")
    with pytest.raises(ConfigError, match="has no folder 'val'"):
        coco_folder(folder)
    (folder / "annotations" / "val.json").write_text('{"categories": [{"id": 1, "name": "x"}]}')
    (folder / "test").rename(folder / "val")
    with pytest.raises(ConfigError, match="give both files the same"):
        coco_folder(folder)
    (folder / "annotations" / "val.json").unlink()
    with pytest.raises(ConfigError, match="put annotations in COCO's format there"):
        coco_folder(folder)


def test_a_folder_without_sizes_is_told_of_the_flag(folder):
    with pytest.raises(ConfigError, match="name the file with --sizes"):
        coco_folder(folder)
