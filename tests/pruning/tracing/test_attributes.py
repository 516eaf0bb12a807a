"""Attributes that hold widths follow the layers."""

import torch_pruning as tp

from blendprune.pruning import head_outputs, prediction_layers, prunable
from blendprune.pruning.tracing.attributes import sync_attributes


def test_attributes_follow_the_widths(blendmask, images):
    model = blendmask("MODEL.FCOS.NORM", "BN")
    with prunable(model):
        pruner = tp.pruner.MagnitudePruner(
            model,
            images,
            importance=tp.importance.MagnitudeImportance(p=2),
            pruning_ratio=0.5,
            ignored_layers=prediction_layers(model.eval(), images),
            forward_fn=head_outputs,
        )
        pruner.step()
    bottom_up, head = model.backbone.bottom_up, model.proposal_generator.fcos_head
    assert {k: s.channels for k, s in bottom_up.output_shape().items()} == {
        "res3": 64,
        "res4": 128,
    }
    assert bottom_up._out_feature_channels["res2"] == 32
    assert set(model.backbone._out_feature_channels.values()) == {32}
    assert (bottom_up.res3[0].in_channels, bottom_up.res3[0].out_channels) == (32, 64)
    assert bottom_up.stem.out_channels == 32
    assert head.in_channels_to_top_module == head.bbox_pred.in_channels == 32
    assert model.proposal_generator.in_channels_to_top_module == 32


def test_bringing_attributes_in_step_changes_nothing_on_a_dense_model(blendmask):
    model = blendmask().train()
    before = [dict(vars(module)) for module in model.modules()]
    sync_attributes(model)
    assert [dict(vars(module)).keys() for module in model.modules()] == [b.keys() for b in before]
    assert model.backbone.bottom_up._out_feature_channels["res4"] == 256
    assert all(module.training for module in model.modules())
