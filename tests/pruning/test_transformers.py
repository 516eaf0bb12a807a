"""detectron2's transformers, small, in a Mask R-CNN: heads and MLPs go, the stream stays."""

import pytest
import torch
from detectron2 import model_zoo
from detectron2.config import LazyCall as L
from detectron2.modeling import FPN, MViT, SwinTransformer
from detectron2.modeling.backbone.fpn import LastLevelMaxPool
from test_lazy_configs import small_mask_rcnn
from zoo import build_dense, prune_and_use, training_batch

import blendprune
from blendprune.modeling.attention import is_attention
from blendprune.pruning import prune
from blendprune.pruning.graph.outputs import head_outputs

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


@pytest.fixture(autouse=True)
def overlay():
    with blendprune.applied():
        yield


def config_of(family):
    model = model_zoo.get_config("common/models/mask_rcnn_vitdet.py").model
    model.backbone = FAMILIES[family](model)
    return small_mask_rcnn(model)


@pytest.fixture(params=FAMILIES)
def config(request):
    return config_of(request.param)


@pytest.fixture
def dense(config):
    torch.manual_seed(0)
    return build_dense(config, SIZE)


def heads(model):
    return [module.num_heads for module in model.modules() if is_attention(module)]


def streams(model):
    """Linears that add to what attention reads; nothing reads MViT's last block again."""
    names = [name for name, _ in model.named_modules() if name.endswith(("attn.proj", "mlp.fc2"))]
    return names[:-2]


def test_it_is_pruned_run_trained_and_reloaded(config):
    torch.manual_seed(0)
    assert prune_and_use(config, SIZE, 0.6)["result"] == "green"


def test_whole_heads_go_and_the_stream_stays(dense):
    images = [{"image": 255 * torch.rand(3, SIZE, SIZE)}]
    before = heads(dense)
    wide = {name: dense.get_submodule(name).out_features for name in streams(dense)}
    prune(dense, images, pruning_ratio=0.5, importance="magnitude", global_pruning=False)
    assert heads(dense) == [count // 2 for count in before]
    assert {name: dense.get_submodule(name).out_features for name in wide} == wide


@pytest.mark.parametrize("importance", ["taylor", "fisher", "surgeon"])
def test_scores_from_data_and_reconstruction_hold(config, dense, importance):
    batch = training_batch(config, SIZE)
    images = [{"image": batch[0]["image"]}]
    wanted = [x.detach() for x in head_outputs(dense, images)]
    again = build_dense(config, SIZE)
    again.load_state_dict(dense.state_dict())
    errors = []
    for model, reconstruct in ((dense, False), (again, True)):
        prune(model, images, data=[batch], max_flops=0.7, importance=importance,
              reconstruct=reconstruct)  # fmt: skip
        found = head_outputs(model, images)
        errors.append(sum(float((x - y).square().sum()) for x, y in zip(wanted, found)))
    assert errors[1] < errors[0]
