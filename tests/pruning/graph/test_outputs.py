"""Stages, raw outputs and prediction layers."""

from torch import nn

from blendprune.pruning import head_outputs, prediction_layers, prunable
from blendprune.pruning.graph.outputs import inference_layers
from blendprune.pruning.tracing.hooks import evaluating


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


def test_the_prediction_layers_are_the_last_layers_of_every_branch(blendmask, images):
    model = blendmask("MODEL.PANOPTIC_FPN.COMBINE.ENABLED", True, "MODEL.FCOS.USE_SCALE", True)
    names = {module: name for name, module in model.named_modules()}
    with prunable(model):
        found = {names[layer] for layer in prediction_layers(model.eval(), images)}
    head = "proposal_generator.fcos_head"
    last = [name for name, m in model.basis_module.named_modules() if isinstance(m, nn.Conv2d)]
    tower = [name for name in last if name.startswith("tower")][-1]
    seg = [name for name in last if name.startswith("seg_head")][-1]
    assert found == {
        f"{head}.cls_logits",
        f"{head}.bbox_pred",
        f"{head}.ctrness",
        "top_layer",
        f"basis_module.{tower}",
        f"basis_module.{seg}",
        "panoptic_module.predictor",
    }


def test_heads_run_on_one_region_or_on_as_many_as_inference_keeps(build, images):
    model = build("mask-fpn")
    sizes = {}
    for all_regions in (False, True):
        with evaluating(model):
            outputs = head_outputs(model, images, all_regions=all_regions)
        sizes[all_regions] = {len(output) for output in outputs}
    # Fifty boxes and ten masks, by the config.
    assert sizes == {False: {1}, True: {1, 50, 10}}
