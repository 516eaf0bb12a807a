"""Small models that only LazyConfigs build."""

from detectron2 import model_zoo
from detectron2.layers import ShapeSpec
from omegaconf import OmegaConf

SIZE = 64


def fcos():
    model = model_zoo.get_config("COCO-Detection/fcos_R_50_FPN_1x.py").model
    body = model.backbone.bottom_up
    del body.stages.stride_in_1x1
    body.stages.depth = 18
    body.stem.update(out_channels=64)
    model.backbone.update(out_channels=128)
    model.backbone.top_block.update(in_channels=128)
    model.head.update(conv_dims=[128], input_shape=[ShapeSpec(channels=128)] * 5)
    return OmegaConf.create({"model": model}, flags={"allow_objects": True})


def regnet(letter):
    name = f"COCO-InstanceSegmentation/mask_rcnn_regnet{letter}_4gf_dds_fpn_1x.py"
    model = model_zoo.get_config(name).model
    model.backbone.bottom_up.update(depth=6, w_a=24, w_0=16, w_m=2, group_width=8)
    return small_mask_rcnn(model)


def small_mask_rcnn(model):
    """The config of a Mask R-CNN on 32 channels; its backbone stays as it is."""
    model.backbone.update(out_channels=32)
    model.proposal_generator.head.update(in_channels=32, conv_dims=[-1])
    model.proposal_generator.update(post_nms_topk=(50, 20))
    heads = model.roi_heads
    heads.box_head.update(conv_dims=[16], fc_dims=[32])
    heads.box_head.input_shape.update(channels=32)
    heads.box_predictor.input_shape.update(channels=32)
    heads.mask_head.update(conv_dims=[16, 16])
    heads.mask_head.input_shape.update(channels=32)
    return OmegaConf.create({"model": model}, flags={"allow_objects": True})


FAMILIES = {"fcos": fcos, "regnet-x": lambda: regnet("x"), "regnet-y": lambda: regnet("y")}
