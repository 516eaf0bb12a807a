"""FLOPs, parameters and activations: fvcore's counts, whatever is in the image."""

import pytest
import torch
from fvcore.nn import FlopCountAnalysis
from torch import nn

from blendprune.pruning import count_flops, head_outputs
from blendprune.pruning.architectures import architecture_of
from tests.zoo import tensors_of


@pytest.mark.parametrize("family", ["mask-fpn", "mask-c4", "cascade", "keypoint"])
def test_flops_do_not_depend_on_what_is_detected(build, images, family):
    model = build(family)
    assert not list(tensors_of(run_real(model, images)[0]["instances"].scores))[0].numel()
    nothing_found = count_flops(model, images)
    for module in model.modules():
        if hasattr(module, "test_score_thresh"):
            module.test_score_thresh = -1.0
    assert count_flops(model, images) == nothing_found


def run_real(model, images):
    for module in model.modules():
        if hasattr(module, "test_score_thresh"):
            module.test_score_thresh = 2.0
    with torch.no_grad():
        return model(images)


def test_the_heads_count_for_as_many_regions_as_the_config_allows(build, images):
    def heads(*opts):
        model = build("mask-fpn", *opts)
        own = count_flops(model, images)
        return (
            architecture_of(model).region_limits(),
            sum(n for name, n in own.items() if name.startswith("roi_heads.box_")),
            sum(n for name, n in own.items() if name.startswith("roi_heads.mask_")),
        )

    limits, box, mask = heads()
    more, more_box, more_mask = heads(
        "MODEL.RPN.POST_NMS_TOPK_TEST", 100, "TEST.DETECTIONS_PER_IMAGE", 30
    )
    assert (limits, more) == ((50, 10), (100, 30))
    assert (more_box, more_mask) == (2 * box, 3 * mask)


@pytest.mark.parametrize("family", ["retinanet", "rpn-fpn", "rpn-c4"])
def test_the_count_is_fvcores_where_fvcore_can_trace(build, images, family):
    class Outputs(nn.Module):
        def __init__(self, model):
            super().__init__()
            self.model = model

        def forward(self, image):
            return tuple(head_outputs(self.model, [{"image": image}]))

    model = build(family)
    with torch.no_grad():
        analysis = FlopCountAnalysis(Outputs(model).eval(), images[0]["image"])
        analysis.unsupported_ops_warnings(False).uncalled_modules_warnings(False)
        assert sum(count_flops(model, images).values()) == analysis.total()


def test_an_lstm_counts_its_products(images):
    class Reader(nn.Module):
        def __init__(self):
            super().__init__()
            self.rnn = nn.LSTM(3, 5, bidirectional=True)

        def forward(self, batched_inputs):
            return self.rnn(batched_inputs[0]["image"].flatten(1).t()[:7, None])

    steps, weights = 7, 4 * 5 * (3 + 5)
    assert sum(count_flops(Reader(), images).values()) == 2 * steps * weights
