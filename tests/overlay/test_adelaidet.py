"""AdelaiDet as it is found: what the overlay adds to run it on a current PyTorch."""

import torch

import blendprune


def test_beziers_have_a_length_under_the_overlay_alone(adelaidet):
    from adet.structures.beziers import Beziers
    from detectron2.modeling.poolers import convert_boxes_to_pooler_format

    before = dict(vars(Beziers))
    with blendprune.applied():
        lists = [Beziers(torch.rand(2, 16)), Beziers(torch.rand(0, 16)), Beziers(torch.rand(1, 16))]
        assert [len(beziers) for beziers in lists] == [2, 0, 1]
        assert convert_boxes_to_pooler_format(lists)[:, 0].tolist() == [0, 0, 2]
    assert dict(vars(Beziers)) == before
