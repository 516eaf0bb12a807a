"""Small models of AdelaiDet's families, pruned, used and reloaded.

::

    ADELAIDET_ROOT=~/AdelaiDet python -m tests.helpers.small_adelaidet [FAMILY ...]

It runs in a process of its own: AdelaiDet registers its classes under the names of our own
BlendMask when it is imported. It prints one JSON object: family → what came of it.
"""

import json
import os
import sys
import tempfile
import traceback
import warnings

if __name__ == "__main__":
    sys.path.insert(0, os.environ["ADELAIDET_ROOT"])

import torch

import blendprune
from blendprune.pruning import count_flops, prunable, prune
from blendprune.pruning.graph.channel_graph import ChannelGraph
from tests.helpers.by_config import follow_config
from tests.helpers.deployed import predictions_of_both, relative_difference
from tests.pruning.conftest import randomise_norms
from tests.zoo import draw_mask_encoding, load_config, prune_and_use, settle_norms

THIN = ("MODEL.RESNETS.STEM_OUT_CHANNELS", 16, "MODEL.RESNETS.WIDTH_PER_GROUP", 16)
THIN += ("MODEL.RESNETS.RES2_OUT_CHANNELS", 64)
SMALL = (*THIN, "MODEL.FPN.OUT_CHANNELS", 128)

FAMILIES = {
    "blendmask": ("BlendMask/R_50_1x", *SMALL),
    "fcos": ("FCOS-Detection/R_50_1x", *SMALL),
    "fcos-dcnv2": ("FCOS-Detection/MS_X_101_32x8d_2x_dcnv2", *SMALL)
    + ("MODEL.RESNETS.DEPTH", 50, "MODEL.RESNETS.NUM_GROUPS", 4),
    "fcos-dla": ("FCOS-Detection/FCOS_RT/MS_DLA_34_4x_syncbn_bn_head",),
    "fcos-vovnet": ("FCOS-Detection/vovnet/MS_V_39_3x", "MODEL.FPN.OUT_CHANNELS", 128),
    "fcos-mobilenet": ("FCOS-Detection/R_50_1x", "MODEL.MOBILENET", True)
    + ("MODEL.FPN.OUT_CHANNELS", 128),
    "fcos-anti-aliased": ("FCOS-Detection/R_50_1x", "MODEL.BACKBONE.ANTI_ALIAS", True),
    "fcos-interval": ("FCOS-Detection/R_50_1x", *SMALL, "MODEL.RESNETS.DEFORM_INTERVAL", 2)
    + ("MODEL.RESNETS.DEFORM_ON_PER_STAGE", [False, True, True, True]),
    "condinst-sem": ("CondInst/MS_R_50_3x_sem", *SMALL),
    "boxinst-bifpn": ("BoxInst/MS_R_50_BiFPN_1x", *THIN)
    + ("MODEL.BiFPN.NUM_REPEATS", 2, "MODEL.BiFPN.OUT_CHANNELS", 128),
    "meinst": ("MEInst-InstanceSegmentation/MEInst_R_50_1x", *SMALL),
    "solov2": ("SOLOv2/R50_3x", *THIN),
    "fcpose": ("FCPose/R_50_3X", *THIN, "MODEL.FCOS.POST_NMS_TOPK_TEST", 10),
    "batext": ("BAText/TotalText/attn_R_50", *THIN),
    "batext-v2": ("BAText/TotalText/v2_attn_R_50", *THIN),
}
# The key of the config that says for how many instances the last layers count.
LIMITS = {
    "condinst-sem": "MODEL.FCOS.POST_NMS_TOPK_TEST",
    "solov2": "MODEL.SOLOV2.NMS_PRE",
    "fcpose": "MODEL.FCOS.POST_NMS_TOPK_TEST",
    "batext-v2": "MODEL.FCOS.POST_NMS_TOPK_TEST",
}
SIZE = 64


def build(family, *opts):
    from detectron2.modeling import build_model

    return build_model(config_of(family, *opts)).eval()


def config_of(family, *opts):
    name, *own = FAMILIES[family]
    cfg = load_config(f"AdelaiDet/{name}.yaml")
    cfg.MODEL.DEVICE, cfg.MODEL.WEIGHTS = "cpu", ""
    cfg.merge_from_list([*own, *opts])
    return cfg


def flops_at_limits(family):
    """FLOPs where 1, 2 and 5 instances are kept."""
    images = [{"image": torch.zeros(3, SIZE, SIZE), "height": SIZE, "width": SIZE}]
    found = []
    for most in (1, 2, 5):
        model = build(family, LIMITS[family], most)
        found.append(sum(count_flops(model, images).values()))
    return found


def left_as_it_was(family):
    """Whether tracing, which runs the training forward too, leaves a refused model unchanged."""
    model = build(family)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    flags = [module.training for module in model.modules()]
    images = [{"image": torch.rand(3, SIZE, SIZE), "height": SIZE, "width": SIZE}]
    try:
        prune(model, images, max_flops=0.01, importance="magnitude", rounds=1)
    except blendprune.errors.TargetUnreachable:
        same = all(torch.equal(before[key], value) for key, value in model.state_dict().items())
        return same and flags == [module.training for module in model.modules()]
    return False


def groups_of(family):
    """Root of every channel group → why it stays, and the layers that change with it."""
    images = [{"image": torch.rand(3, SIZE, SIZE), "height": SIZE, "width": SIZE}]
    model = build(family)
    with prunable(model):
        groups = ChannelGraph(model, images).groups()
        return {g.root: [g.frozen_reason, [member.layer for member in g.members]] for g in groups}


def refusal_at_the_width_of_an_input(family):
    """What is said of a BiFPN that comes out as wide as an input it projects."""
    model = build(family, "MODEL.BiFPN.OUT_CHANNELS", 96)
    images = [{"image": torch.rand(3, SIZE, SIZE), "height": SIZE, "width": SIZE}]
    ratios = [("backbone.repeated_bifpn.*", 0), ("*.res3.0.conv3", 0.25)]
    try:
        prune(model, images, pruning_ratio=0.5, pruning_ratio_dict=ratios,
              importance="magnitude", rounds=1)  # fmt: skip
    except blendprune.errors.PruningError as error:
        return str(error)


def change_by_deploying(family):
    """Largest relative change of what the heads predict."""
    few = (LIMITS[family], 5) if family in LIMITS else ()
    model = randomise_norms(build(family, *few))
    side = 3 * SIZE  # Of fewer pixels, the statistics let rounding grow.
    images = [{"image": 255 * torch.rand(3, side, side), "height": side, "width": side}]
    draw_mask_encoding(model)
    settle_norms(model, images)
    both = predictions_of_both(model, blendprune.deploy(model, images), images)
    heads = [pairs for name, pairs in both.items() if not name.startswith("backbone.")]
    return max(relative_difference(*pair) for pairs in heads for pair in pairs)


def registered_by_adelaidet():
    """Names of AdelaiDet's meta architectures."""
    from detectron2.modeling import META_ARCH_REGISTRY

    return [name for name, cls in META_ARCH_REGISTRY if cls.__module__.startswith("adet.")]


def main(families):
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    blendprune.apply()
    found = {}
    for family in families:
        torch.manual_seed(0)
        try:
            found[family] = prune_and_use(config_of(family), SIZE)
            with tempfile.TemporaryDirectory() as folder:
                follow_config(config_of(family), folder, SIZE)
            found[family]["meta architecture"] = config_of(family).MODEL.META_ARCHITECTURE
            if family in LIMITS:
                found[family]["at limits"] = flops_at_limits(family)
            if family == "condinst-sem":
                found[family]["left as it was"] = left_as_it_was(family)
            if family == "boxinst-bifpn":
                found[family]["refusal"] = refusal_at_the_width_of_an_input(family)
            found[family]["groups"] = groups_of(family)
            found[family]["change by deploying"] = change_by_deploying(family)
        except Exception:
            found[family] = {"result": traceback.format_exc()[-1500:]}
    found["registered"] = registered_by_adelaidet()
    print(json.dumps(found))


if __name__ == "__main__":
    main(sys.argv[1:] or FAMILIES)
