"""One small model of each family of detectron2's model zoo: pruned, used, reloaded."""

import pytest
import torch
from fvcore.nn import FlopCountAnalysis
from test_prune import prune_the_dead, silence_half_of_every_group
from torch import nn
from zoo import load_config, prune_and_use, settle_norms, tensors_of

from blendprune.pruning import ChannelGraph, count_flops, group_notes, head_outputs, prunable
from blendprune.pruning.architectures.rcnn import region_limits
from blendprune.pruning.graph.outputs import inference_layers
from blendprune.pruning.tracing.view import evaluating

SMALL = ("MODEL.RESNETS.STEM_OUT_CHANNELS", 16, "MODEL.RESNETS.WIDTH_PER_GROUP", 16)
SMALL += ("MODEL.RESNETS.RES2_OUT_CHANNELS", 64, "MODEL.FPN.OUT_CHANNELS", 64)
SMALL += ("MODEL.ROI_BOX_HEAD.FC_DIM", 64, "MODEL.ROI_BOX_HEAD.CONV_DIM", 64)
SMALL += ("MODEL.ROI_MASK_HEAD.CONV_DIM", 64, "MODEL.ROI_KEYPOINT_HEAD.CONV_DIMS", [32, 32])
SMALL += ("MODEL.SEM_SEG_HEAD.CONVS_DIM", 128, "MODEL.RETINANET.NUM_CONVS", 1)
SMALL += ("MODEL.RPN.POST_NMS_TOPK_TEST", 50, "TEST.DETECTIONS_PER_IMAGE", 10)
SMALL += ("DATASETS.TRAIN", (), "DATASETS.TEST", ())

FAMILIES = {
    "box-fpn-r18": ("COCO-Detection/faster_rcnn_R_50_FPN_1x", "MODEL.RESNETS.DEPTH", 18),
    "box-given-proposals": ("COCO-Detection/fast_rcnn_R_50_FPN_1x",),
    "mask-fpn": ("COCO-InstanceSegmentation/mask_rcnn_R_50_FPN_1x",),
    "mask-c4": ("COCO-InstanceSegmentation/mask_rcnn_R_50_C4_1x",),
    "mask-dc5": ("COCO-InstanceSegmentation/mask_rcnn_R_50_DC5_1x",),
    "keypoint": ("COCO-Keypoints/keypoint_rcnn_R_50_FPN_1x",),
    "cascade": ("Misc/cascade_mask_rcnn_R_50_FPN_1x",),
    "resnext": ("COCO-Detection/faster_rcnn_X_101_32x8d_FPN_3x",)
    + ("MODEL.RESNETS.DEPTH", 50, "MODEL.RESNETS.NUM_GROUPS", 4),
    "retinanet": ("COCO-Detection/retinanet_R_50_FPN_1x",),
    "rpn-fpn": ("COCO-Detection/rpn_R_50_FPN_1x",),
    "rpn-c4": ("COCO-Detection/rpn_R_50_C4_1x",),
    "panoptic": ("COCO-PanopticSegmentation/panoptic_fpn_R_50_1x",),
    "semantic": ("Misc/semantic_R_50_FPN_1x",),
    "syncbn": ("Misc/mask_rcnn_R_50_FPN_3x_syncbn",),
    "deformable": ("Misc/mask_rcnn_R_50_FPN_1x_dconv_c3-c5",),
    "modulated": ("Misc/mask_rcnn_R_50_FPN_1x_dconv_c3-c5",)
    + ("MODEL.RESNETS.DEFORM_MODULATED", True, "MODEL.RESNETS.NUM_GROUPS", 4),
    "group-norm": ("Misc/scratch_mask_rcnn_R_50_FPN_3x_gn",)
    + ("MODEL.RESNETS.WIDTH_PER_GROUP", 64, "MODEL.RESNETS.RES2_OUT_CHANNELS", 128)
    + ("MODEL.RESNETS.STEM_OUT_CHANNELS", 64, "MODEL.FPN.OUT_CHANNELS", 128)
    + ("MODEL.ROI_MASK_HEAD.CONV_DIM", 128, "MODEL.ROI_BOX_HEAD.CONV_DIM", 128),
}
# A group norm mixes channels: taking away a silent one changes the rest.
WITHOUT_MIXING = [name for name in FAMILIES if name not in ("group-norm", "panoptic", "semantic")]


@pytest.fixture
def images():
    return [{"image": 255 * torch.rand(3, 64, 64, generator=torch.Generator().manual_seed(0))}]


def config_of(family, *opts):
    name, *own = FAMILIES[family]
    cfg = load_config(f"{name}.yaml")
    cfg.MODEL.DEVICE, cfg.MODEL.WEIGHTS = "cpu", ""
    cfg.merge_from_list([*SMALL, *own, *opts])
    return cfg


@pytest.fixture
def build(overlay):
    from detectron2.modeling import build_model

    return lambda family, *opts: build_model(config_of(family, *opts)).eval()


@pytest.mark.parametrize("family", FAMILIES)
def test_a_zoo_model_is_pruned_run_trained_and_reloaded(overlay, family):
    found = prune_and_use(config_of(family), size=64)
    assert found["params"]["after"] < 0.9 * found["params"]["before"]


@pytest.mark.parametrize("family", WITHOUT_MIXING)
def test_removing_silent_channels_changes_no_output(build, images, randomise, family):
    model = randomise(build(family))
    settle_norms(model, images)
    dead = silence_half_of_every_group(model, images)
    before = run(model, images)
    prune_the_dead(model, images, dead)
    after = run(model, images)
    assert len(before) == len(after) > 0
    for a, b in zip(after, before):
        assert b.abs().max() > 0
        assert torch.allclose(a, b, atol=1e-3 * b.abs().max().item())


def run(model, images):
    # With gradients, so that what the prediction layers gave is told from the rest.
    with evaluating(model, grad=True):
        return [output.detach() for output in head_outputs(model, images)]


@pytest.mark.parametrize("family", [name for name in FAMILIES if name != "group-norm"])
def test_only_prediction_layers_stay(build, images, family):
    model = build(family)
    with prunable(model):
        graph = ChannelGraph(model, images)
        assert graph.notes + group_notes(graph.groups()) == []


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
            region_limits(model),
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


def test_a_layer_belongs_to_the_stage_that_runs_it(build, images):
    model = build("panoptic")
    found = inference_layers(model, images)
    parts = ("backbone", "sem_seg_head", "proposal_generator", "roi_heads.box_", "roi_heads.mask_")
    numbers = {part: set() for part in parts}
    for name, module in model.named_modules():
        if module in found:
            [part] = [part for part in parts if name.startswith(part)]
            numbers[part].add(found[module])
    assert list(numbers.values()) == [{0}, {0}, {0}, {1}, {2}]
