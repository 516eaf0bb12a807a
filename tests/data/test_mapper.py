"""The mapper: what it paints, how it crops and flips, and that AdelaiDet's agrees."""

import copy
import importlib.util
import pathlib

import numpy as np
import pytest
import torch
from detectron2.config import get_cfg
from detectron2.data import transforms as T
from detectron2.structures import BoxMode
from PIL import Image
from pycocotools import mask as mask_util

from blendprune.data.mapper import DatasetMapperWithBasis, RandomCropWithInstance, paint_classes
from blendprune.modeling.blendmask_config import add_blendmask_config

HEIGHT, WIDTH = 40, 60


def mapper_cfg(*options):
    cfg = get_cfg()
    add_blendmask_config(cfg)
    cfg.merge_from_list(
        [
            *("MODEL.MASK_ON", True),
            *("MODEL.BASIS_MODULE.LOSS_ON", True),
            *("INPUT.MIN_SIZE_TRAIN", (HEIGHT,)),
            *("INPUT.MIN_SIZE_TEST", HEIGHT),
            *("INPUT.HFLIP_TRAIN", False),
            *options,
        ]
    )
    return cfg


def rectangle(x0, y0, x1, y1, category, form="polygon", crowd=0):
    mask = np.zeros((HEIGHT, WIDTH), dtype=np.uint8, order="F")
    mask[y0:y1, x0:x1] = 1
    rle = mask_util.encode(mask)
    segmentation = {
        "polygon": [[x0, y0, x1, y0, x1, y1, x0, y1]],
        "rle": rle,
        "uncompressed": {"size": [HEIGHT, WIDTH], "counts": _counts(mask)},
    }[form]
    return {
        "bbox": [x0, y0, x1 - x0, y1 - y0],
        "bbox_mode": BoxMode.XYWH_ABS,
        "category_id": category,
        "segmentation": segmentation,
        "iscrowd": crowd,
    }


def _counts(mask):
    flat = np.concatenate([[0], mask.flatten(order="F"), [2]])
    edges = np.flatnonzero(np.diff(flat))
    return np.diff(np.concatenate([[0], edges])).tolist()


@pytest.fixture
def image(tmp_path):
    """A function that writes an image and gives its dataset dict."""

    def make(*annotations, mode="RGB"):
        path = tmp_path / "image.png"
        channels = () if mode == "L" else (3,)
        pixels = np.random.RandomState(0).randint(256, size=(HEIGHT, WIDTH, *channels))
        Image.fromarray(pixels.astype(np.uint8), mode).save(path)
        return {
            "file_name": str(path),
            "image_id": 1,
            "height": HEIGHT,
            "width": WIDTH,
            "annotations": list(annotations),
        }

    return make


@pytest.mark.parametrize("form", ["polygon", "rle"])
def test_later_annotations_are_painted_over_earlier_ones(image, form):
    scene = image(rectangle(5, 5, 30, 30, 2, form), rectangle(20, 20, 40, 35, 0, form))
    mask_format = "polygon" if form == "polygon" else "bitmask"
    mapped = DatasetMapperWithBasis(mapper_cfg("INPUT.MASK_FORMAT", mask_format))(scene)
    expected = torch.zeros(HEIGHT, WIDTH, dtype=torch.long)
    expected[5:30, 5:30] = 3
    expected[20:35, 20:40] = 1
    assert torch.equal(mapped["basis_sem"], expected)
    assert mapped["image"].shape == (3, HEIGHT, WIDTH)
    assert len(mapped["instances"]) == 2


def test_uncompressed_rle_is_painted_alike():
    forms = ("polygon", "rle", "uncompressed")
    painted = [paint_classes([rectangle(4, 6, 20, 31, 1, f)], (HEIGHT, WIDTH)) for f in forms]
    assert all(np.array_equal(painted[0], other) for other in painted[1:])


def test_crowds_are_painted_but_are_no_instances(image):
    scene = image(rectangle(5, 5, 30, 30, 1), rectangle(30, 5, 50, 20, 4, "rle", crowd=1))
    mapped = DatasetMapperWithBasis(mapper_cfg("INPUT.MASK_FORMAT", "bitmask"))(scene)
    assert mapped["basis_sem"][10, 40] == 5
    assert mapped["instances"].gt_classes.tolist() == [1]


@pytest.mark.parametrize("crop", [False, True])
def test_an_image_of_crowds_alone_has_no_instances(image, crop):
    scene = image(rectangle(5, 5, 30, 30, 1, "rle", crowd=1))
    options = ("INPUT.MASK_FORMAT", "bitmask", "INPUT.CROP.ENABLED", crop)
    mapped = DatasetMapperWithBasis(mapper_cfg(*options))(scene)
    assert len(mapped["instances"]) == 0
    assert mapped["basis_sem"].shape == mapped["image"].shape[1:]


def test_an_image_without_annotations_is_all_background(image):
    mapped = DatasetMapperWithBasis(mapper_cfg())(image())
    assert len(mapped["instances"]) == 0 and mapped["basis_sem"].sum() == 0


def test_many_classes_survive_resizing(image):
    scene = image(rectangle(5, 5, 30, 30, 1202))
    mapped = DatasetMapperWithBasis(mapper_cfg("INPUT.MIN_SIZE_TRAIN", (97,)))(scene)
    assert mapped["basis_sem"].unique().tolist() == [0, 1203]


@pytest.mark.parametrize("options", [(), ("INPUT.FORMAT", "L"), ("INPUT.FORMAT", "RGB")])
def test_images_of_any_format_are_read(image, options):
    mode = "L" if "L" in options else "RGB"
    mapped = DatasetMapperWithBasis(mapper_cfg(*options))(
        image(rectangle(1, 1, 9, 9, 0), mode=mode)
    )
    assert len(mapped["image"]) == (1 if mode == "L" else 3)


def test_labels_follow_the_image_through_crop_rotation_and_flip(image):
    options = ("INPUT.CROP.ENABLED", True, "INPUT.IS_ROTATE", True, "INPUT.HFLIP_TRAIN", True)
    mapper = DatasetMapperWithBasis(mapper_cfg(*options, "INPUT.MASK_FORMAT", "bitmask"))
    scene = image(rectangle(15, 10, 40, 30, 2, "rle"))
    for seed in range(10):
        np.random.seed(seed)
        mapped = mapper(scene)
        assert mapped["basis_sem"].shape == mapped["image"].shape[1:]
        union = mapped["instances"].gt_masks.tensor.any(dim=0)
        assert torch.equal(union, mapped["basis_sem"] == 3)


def test_hflip_train_off_never_flips(image):
    scene = image(rectangle(5, 5, 20, 20, 0))
    kinds = [type(a) for a in DatasetMapperWithBasis(mapper_cfg()).augmentations.augs]
    assert T.RandomFlip not in kinds
    on = DatasetMapperWithBasis(mapper_cfg("INPUT.HFLIP_TRAIN", True))
    assert T.RandomFlip in [type(a) for a in on.augmentations.augs]
    assert DatasetMapperWithBasis(mapper_cfg())(scene)["basis_sem"][10, 10] == 1


def test_inference_gives_neither_labels_nor_crops(image):
    cfg = mapper_cfg("INPUT.CROP.ENABLED", True)
    mapped = DatasetMapperWithBasis(cfg, is_train=False)(image(rectangle(5, 5, 20, 20, 0)))
    assert mapped["image"].shape == (3, HEIGHT, WIDTH)
    assert not {"basis_sem", "instances", "annotations"} & mapped.keys()


def test_the_dataset_dict_is_left_as_it_was(image):
    scene = image(rectangle(5, 5, 20, 20, 0))
    before = copy.deepcopy(scene)
    DatasetMapperWithBasis(mapper_cfg())(scene)
    assert scene == before


def test_without_the_basis_loss_nothing_is_painted(image):
    mapper = DatasetMapperWithBasis(mapper_cfg("MODEL.BASIS_MODULE.LOSS_ON", False))
    assert "basis_sem" not in mapper(image(rectangle(5, 5, 20, 20, 0)))


def test_boxinst_leaves_the_masks_out(image):
    mapper = DatasetMapperWithBasis(mapper_cfg("MODEL.BOXINST.ENABLED", True))
    mapped = mapper(image(rectangle(5, 5, 20, 20, 0)))
    assert not mapped["instances"].has("gt_masks") and mapped["basis_sem"].max() == 1


def test_a_crop_holds_the_centre_of_some_instance():
    crop = RandomCropWithInstance("absolute", (20, 20), crop_instance=True)
    boxes = np.array([[0.0, 0, 10, 10], [70, 80, 100, 100]])
    centres = boxes.reshape(-1, 2, 2).mean(axis=1)
    for seed in range(50):
        np.random.seed(seed)
        t = crop.get_transform(np.zeros((100, 100, 3)), boxes)
        low, high = np.array([t.x0, t.y0]), np.array([t.x0 + t.w, t.y0 + t.h])
        assert (low >= 0).all() and (high <= 100).all() and (t.w, t.h) == (20, 20)
        assert ((centres >= low) & (centres <= high)).all(axis=1).any()


def test_a_crop_that_may_not_cut_instances_cuts_none():
    crop = RandomCropWithInstance("absolute", (20, 20), crop_instance=False)
    boxes = np.array([[5.0, 5, 40, 40], [35, 30, 60, 70], [80, 80, 95, 99]])
    for seed in range(50):
        np.random.seed(seed)
        t = crop.get_transform(np.zeros((100, 100, 3)), boxes)
        for x0, y0, x1, y1 in boxes:
            apart = x1 <= t.x0 or x0 >= t.x0 + t.w or y1 <= t.y0 or y0 >= t.y0 + t.h
            held = x0 >= t.x0 and x1 <= t.x0 + t.w and y0 >= t.y0 and y1 <= t.y0 + t.h
            assert apart or held


@pytest.mark.parametrize("mask_format", ["polygon", "bitmask"])
def test_adelaidets_mapper_reads_the_same_from_its_prepared_files(
    image, mask_format, adelaidet, adelaidet_root, tmp_path
):
    from adet.data.dataset_mapper import DatasetMapperWithBasis as Theirs

    form = "polygon" if mask_format == "polygon" else "rle"
    scene = image(
        rectangle(5, 5, 33, 31, 2, form),
        rectangle(21, 17, 40, 35, 0, form),
        rectangle(41, 3, 57, 20, 4, "rle", crowd=1),
    )
    source = pathlib.Path(adelaidet_root, "datasets", "prepare_thing_sem_from_instance.py")
    spec = importlib.util.spec_from_file_location("prepare", source)
    prepare = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(prepare)
    prepare._process_instance_to_semantic(
        copy.deepcopy(scene["annotations"]),
        str(pathlib.Path(scene["file_name"]).with_suffix(".npz")),
        scene,
        {i: i for i in range(5)},
    )
    sizes = ("INPUT.MIN_SIZE_TRAIN", (37, 53, 80), "INPUT.HFLIP_TRAIN", True)
    cfg = mapper_cfg(*sizes, "INPUT.MASK_FORMAT", mask_format)
    ours, theirs = DatasetMapperWithBasis(cfg), Theirs(cfg)
    for seed in range(5):
        results = []
        for mapper in (ours, theirs):
            np.random.seed(seed)
            results.append(mapper(scene))
        a, b = results
        assert a.keys() == b.keys()
        assert torch.equal(a["image"], b["image"])
        assert torch.equal(a["basis_sem"], b["basis_sem"])
        assert torch.equal(a["instances"].gt_classes, b["instances"].gt_classes)
        assert torch.equal(a["instances"].gt_boxes.tensor, b["instances"].gt_boxes.tensor)
