"""detectron2's transformers, small, in a Mask R-CNN."""

from detectron2 import model_zoo
from detectron2.config import LazyCall as L
from detectron2.modeling import FPN, MViT, SwinTransformer
from detectron2.modeling.backbone.fpn import LastLevelMaxPool

from tests.helpers.small_lazy import small_mask_rcnn

SIZE = 64


def vitdet(model):
    model.backbone.net.update(img_size=SIZE, embed_dim=32, depth=2, num_heads=4)
    model.backbone.net.update(window_size=2, window_block_indexes=[0], drop_path_rate=0.0)
    return model.backbone


def swin(model):
    net = L(SwinTransformer)(
        embed_dim=16, depths=[1, 1, 1, 1], num_heads=[2, 2, 4, 4], window_size=4, drop_path_rate=0.0
    )
    return over(net, ["p0", "p1", "p2", "p3"])


def mvit(model):
    net = L(MViT)(embed_dim=16, depth=4, num_heads=2, last_block_indexes=[0, 1, 2, 3])
    net.update(residual_pooling=True, drop_path_rate=0.0)
    net.out_features = ["scale2", "scale3", "scale4", "scale5"]
    return over(net, net.out_features)


def over(net, features):
    return L(FPN)(
        bottom_up=net,
        in_features=features,
        out_channels=32,
        top_block=L(LastLevelMaxPool)(),
        square_pad=SIZE,
    )


FAMILIES = {"vitdet": vitdet, "swin": swin, "mvit": mvit}


def config_of(family):
    model = model_zoo.get_config("common/models/mask_rcnn_vitdet.py").model
    model.backbone = FAMILIES[family](model)
    return small_mask_rcnn(model)
