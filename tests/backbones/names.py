"""Which backbones are tried: one or two of each family."""

import torchvision
from torch import nn

from .models import Pyramid, Stages, TimmFeatures


def _children(model, until=None):
    """Modules of a model in order, up to the classifier."""
    found = []
    for name, module in model.named_children():
        if name in ("avgpool", "fc", "classifier", "dropout", until):
            break
        found.append(module)
    return found


def _inside(*names):
    """A function from a model to the modules in its containers of these names."""

    def blocks(model):
        found = []
        for name in names:
            module = getattr(model, name)
            found += list(module) if isinstance(module, nn.Sequential) else [module]
        return found

    return blocks


_FEATURES = _inside("features")
_REGNET = _inside("stem", "trunk_output")

_WITH_AUXILIARIES = ("googlenet", "inception_v3")

#: name → how to take the model apart.
TORCHVISION = {
    "resnet50": _children,
    "resnext50_32x4d": _children,
    "wide_resnet50_2": _children,
    "regnet_x_400mf": _REGNET,
    "regnet_y_400mf": _REGNET,
    "densenet121": _FEATURES,
    "mobilenet_v2": _FEATURES,
    "mobilenet_v3_large": _FEATURES,
    "efficientnet_b0": _FEATURES,
    "efficientnet_v2_s": _FEATURES,
    "convnext_tiny": _FEATURES,
    "mnasnet1_0": _inside("layers"),
    "shufflenet_v2_x1_0": _children,
    "squeezenet1_1": _FEATURES,
    "googlenet": _children,
    "inception_v3": _children,
    "vgg16_bn": _FEATURES,
    "swin_t": _FEATURES,
}

TIMM = (
    "resnet50d",
    "ecaresnet50t",
    "seresnet50",
    "skresnet18",
    "res2net50_26w_4s",
    "resnest14d",
    "dla34",
    "hrnet_w18_small",
    "ese_vovnet19b_dw",
    "ghostnet_100",
    "tf_efficientnet_b0",
    "mobilenetv3_large_100",
    "rexnet_100",
    "repvgg_a0",
    "cspresnet50",
    "cspdarknet53",
    "dm_nfnet_f0",
    "regnetz_b16",
    "convnextv2_atto",
    "edgenext_xx_small",
    "hardcorenas_a",
    "mixnet_s",
    "fbnetc_100",
    "xception41",
    "dpn68",
    "selecsls42",
    "efficientvit_b0",
    "fastvit_t8",
    "poolformer_s12",
    "mobileone_s0",
)

NAMES = [f"torchvision/{name}" for name in TORCHVISION] + [f"timm/{name}" for name in TIMM]


def build_backbone(name):
    """A backbone with a pyramid, of random weights.

    Args:
        name (str): one of :data:`NAMES`, or ``timm/`` and any name that timm knows.

    Returns:
        Backbone: with outputs p3 to p5.
    """
    library, _, model = name.partition("/")
    if library == "timm":
        # The layers that only the finest map needs would get no gradient.
        return Pyramid(TimmFeatures(model, levels=4 if model.startswith("hrnet") else 3))
    options = {"init_weights": False, "aux_logits": False} if model in _WITH_AUXILIARIES else {}
    whole = getattr(torchvision.models, model)(weights=None, **options)
    stages = Stages(TORCHVISION[model](whole), channels_last=model == "swin_t")
    # Inception pads nothing: on 64 pixels nothing is left.
    return Pyramid(stages, 64 if model == "inception_v3" else 32)
