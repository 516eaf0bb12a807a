"""Which location learns which box."""

import pytest
import torch
from detectron2.structures import Boxes, Instances

from blendprune.modeling.fcos_losses import centerness, overlaps
from blendprune.modeling.fcos_targets import FCOSTargets, level_locations


def _instances(*boxes, classes=None):
    found = Instances((64, 64))
    found.gt_boxes = Boxes(torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4))
    found.gt_classes = torch.tensor(classes or [0] * len(boxes), dtype=torch.long)
    return found


def _targets(*images, center_sample=False, radius=1.5):
    targets = FCOSTargets(3, [8, 16], [32], center_sample, radius)
    cpu = torch.device("cpu")
    return targets([level_locations(8, 8, 8, cpu), level_locations(4, 4, 16, cpu)], images)


def test_locations_are_the_centres_of_the_cells():
    points = level_locations(2, 3, 8, torch.device("cpu"))
    assert points.tolist() == [[4, 4], [12, 4], [20, 4], [4, 12], [12, 12], [20, 12]]


def test_the_smaller_of_two_boxes_wins():
    found = _targets(_instances([0, 0, 30, 30], [8, 8, 16, 16], classes=[1, 2]))
    at = (found["locations"] == torch.tensor([12.0, 12.0])).all(dim=1)
    assert found["labels"][at].tolist() == [2] and found["gt_inds"][at].tolist() == [1]
    assert found["reg_targets"][at].tolist() == [[0.5, 0.5, 0.5, 0.5]]


def test_large_boxes_are_learnt_on_coarse_levels():
    found = _targets(_instances([0, 0, 64, 64]))
    positive = found["labels"] != 3
    assert (found["fpn_levels"][positive & (found["reg_targets"].amax(1) > 4)] == 1).all()
    assert positive[found["fpn_levels"] == 1].any()


def test_center_sampling_keeps_to_the_middle():
    box = [0, 0, 40, 40]
    wide = _targets(_instances(box))["labels"] != 3
    narrow = _targets(_instances(box), center_sample=True, radius=0.6)["labels"] != 3
    assert 0 < narrow.sum() < wide.sum() and (wide | ~narrow).all()


def test_center_sampling_goes_by_the_mass_of_a_full_mask():
    image = _instances([0, 0, 30, 30])
    masks = torch.zeros(1, 64, 64)
    masks[0, :8, :8] = 1
    image.gt_bitmasks_full = masks
    found = _targets(image, center_sample=True, radius=0.5)
    assert found["locations"][found["labels"] != 3].tolist() == [[4.0, 4.0]]


def test_boxes_are_numbered_through_the_batch_and_rows_go_level_first():
    found = _targets(_instances([0, 0, 20, 20]), _instances(), _instances([0, 0, 20, 20]))
    positive = found["labels"] != 3
    assert set(found["gt_inds"][positive].tolist()) == {0, 1}
    assert not positive[found["im_inds"] == 1].any()
    assert found["fpn_levels"].tolist() == [0] * 64 * 3 + [1] * 16 * 3
    assert found["im_inds"][:192].tolist() == [0] * 64 + [1] * 64 + [2] * 64


def test_centerness_is_one_in_the_middle_and_falls_to_the_edges():
    distances = torch.tensor([[2.0, 2, 2, 2], [1, 2, 4, 2], [1, 1, 4, 4]])
    assert centerness(distances).tolist() == pytest.approx([1.0, 0.5, 0.25])
    assert centerness(torch.zeros(0, 4)).shape == (0,)


def test_equal_boxes_overlap_fully():
    boxes = torch.tensor([[1.0, 2, 3, 4], [0, 0, 0, 0]])
    iou, giou = overlaps(boxes[:1], boxes[:1])
    assert iou.item() == 1 and giou.item() == 1
    iou, giou = overlaps(torch.ones(1, 4), torch.full((1, 4), 2.0))
    assert iou.item() == pytest.approx(5 / 17) and giou.item() == pytest.approx(5 / 17)
