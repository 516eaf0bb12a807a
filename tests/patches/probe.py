"""What patched upstream does, written to ``results.pth``: run once per form of the patch set.

Usage: ``python probe.py (text | overlay) (own | adet)``, in an empty folder. Under ``text``, the
detectron2 (and adet) that ``sys.path`` finds first is a patched copy, and nothing is applied.
"""

import copy
import hashlib
import pickle
import sys

import torch
from torch import nn

IMAGE = 64


def main(form, family):
    torch.set_num_threads(1)
    import blendprune

    if form == "overlay":
        blendprune.apply()
    elif family == "adet":
        from blendprune.modeling.operators.extension import PlaceholderFinder

        sys.meta_path.append(PlaceholderFinder())
    if family == "adet":
        import adet.config.defaults  # noqa: F401  (adds its keys)
        import adet.modeling  # noqa: F401  (registers)
        from adet.checkpoint import AdetCheckpointer as Checkpointer
    else:
        from detectron2.checkpoint import DetectionCheckpointer as Checkpointer

        from blendprune import modeling

        modeling.register()

    results = {
        "origin": origin(family),
        "config": config(),
        "blocks": blocks(),
        "dense": dense(Checkpointer),
        "other": other_architecture(Checkpointer),
        "pruned": pruned(Checkpointer),
        "fork": fork_names(Checkpointer),
        "hooks": training_hooks(Checkpointer),
        "errors": errors(Checkpointer),
    }
    if family == "adet":
        results["prune mode"] = prune_mode()
        results["basis loss"] = basis_loss(Checkpointer)
    torch.save(results, "results.pth")


def origin(family):
    import detectron2

    from blendprune import overlay

    files = [detectron2.__file__]
    if family == "adet":
        files.append(sys.modules["adet"].__file__)
    return {"files": files, "applied": overlay.drift_policy() is not None}


def config():
    from detectron2.config.defaults import _C

    return _C.dump()


def training_hooks(checkpointer):
    """Names of the hooks that upstream's trainer builds, with and without those of the config."""
    from detectron2.config import get_cfg
    from detectron2.engine import DefaultTrainer

    class Trainer(DefaultTrainer):
        def __init__(self, cfg):
            self.cfg, self.checkpointer = cfg, checkpointer(nn.Linear(1, 1))

        def build_writers(self):
            return []

    found = []
    for strength in (0.0, 0.1):
        cfg = get_cfg()
        cfg.PRUNER.SPARSITY.STRENGTH = strength
        found.append([type(hook).__name__ for hook in Trainer(cfg).build_hooks()])
    return found


def blocks():
    """BasicBlock of every kind: names, keys, outputs, gradients, copies of it."""
    from detectron2.modeling.backbone.resnet import BasicBlock

    found = {}
    for norm in ("BN", "FrozenBN", "GN", ""):
        for channels, stride in (((32, 64), 2), ((32, 32), 1)):
            torch.manual_seed(0)
            block = BasicBlock(*channels, stride=stride, norm=norm)
            x = torch.randn(2, 32, 8, 8)
            out = block(x)
            out.sum().backward()
            frozen = copy.deepcopy(block).freeze()
            block.eval()
            with torch.no_grad():
                again = block(x)
                twins = [
                    torch.jit.script(block),
                    torch.jit.trace(block, x),
                    pickle.loads(pickle.dumps(block)),
                    copy.deepcopy(block),
                ]
                same = [torch.equal(twin(x), again) for twin in twins]
            found[norm, stride] = {
                "children": [name for name, _ in block.named_children()],
                "frozen": list(frozen.state_dict()),
                "gradients": [p.grad for p in block.parameters()],
                "outputs": [out.detach(), again],
                "twins": same,
                **names(block),
            }
    return found


def dense(checkpointer):
    model = build()
    checkpointer(model, ".").save("dense", iteration=7)
    return {**names(model), **behaviour(model)}


def other_architecture(checkpointer):
    """A model that no patch but the ones of detectron2 reaches."""
    retina = (
        *("MODEL.META_ARCHITECTURE", "RetinaNet"),
        *("MODEL.BACKBONE.NAME", "build_retinanet_resnet_fpn_backbone"),
        *("MODEL.RETINANET.NUM_CLASSES", 3),
        *("MODEL.RETINANET.NUM_CONVS", 1),
        *("MODEL.ANCHOR_GENERATOR.SIZES", [[32], [64], [128], [256], [512]]),
    )
    model = cut(build(*retina))
    checkpointer(model, ".").save("retinanet")
    again = build(*retina, "MODEL.FINETUNE", True, "MODEL.WEIGHTS", "retinanet.pth")
    checkpointer(again).load("retinanet.pth")
    return {
        **names(again),
        "outputs": inference(again),
        "cut": {"weights": names(model)["weights"], "outputs": inference(model)},
    }


def pruned(checkpointer):
    """A cut model, saved, built again under FINETUNE, trained, saved again."""
    model = cut(build())
    checkpointer(model, ".").save("pruned")
    finetuned = build("MODEL.FINETUNE", True, "MODEL.WEIGHTS", "pruned.pth")
    checkpointer(finetuned).load("pruned.pth")
    # A dense model takes these widths if its training prunes gradually.
    resumed = build("PRUNER.GRADUAL.END", 1)
    checkpointer(resumed).load("pruned.pth")
    found = {
        **names(finetuned),
        "cut": {"weights": names(model)["weights"], "outputs": inference(model)},
        "shapes": str(finetuned.backbone.output_shape()),
        "channels": finetuned.backbone.bottom_up.res3[0].conv1.out_channels,
        "resumed": names(resumed)["weights"],
        **behaviour(finetuned),
    }
    checkpointer(finetuned, ".").save("finetuned")
    return found


def fork_names(checkpointer):
    """A checkpoint whose norms are called as the children of the block are."""
    weights = build().state_dict()
    for conv, norm in (("conv1", "norm1"), ("conv2", "norm2"), ("shortcut", "norm3")):
        weights = {k.replace(f".{conv}.norm.", f".{norm}."): v + 1 for k, v in weights.items()}
    torch.save({"model": weights}, "fork.pth")
    model = build()
    left = checkpointer(model).load("fork.pth")
    return {"renamed": sum(".norm1." in k for k in weights), "left": left, **names(model)}


def errors(checkpointer):
    """The sentence of every refusal; ``pruned.pth`` is there already."""
    torch.save({"model": {}}, "plain.pth")
    torch.save({"model": {}, "struct": nn.ReLU()}, "pickled.pth")
    weights = "MODEL.WEIGHTS"
    cases = {
        "not a bool": lambda: build(PRUNE="yes"),
        "both": lambda: build("MODEL.PRUNE", True, "MODEL.FINETUNE", True),
        "no weights": lambda: build("MODEL.FINETUNE", True),
        "no such file": lambda: build("MODEL.FINETUNE", True, weights, "absent.pth"),
        "no struct": lambda: build("MODEL.FINETUNE", True, weights, "plain.pth"),
        "pickled struct": lambda: build("MODEL.FINETUNE", True, weights, "pickled.pth"),
        "other struct": lambda: build("MODEL.FINETUNE", True, weights, "retinanet.pth"),
        "pruned in dense": lambda: checkpointer(build()).load("pruned.pth"),
        "loading a pickled module": lambda: checkpointer(build()).load("pickled.pth"),
    }
    return {name: refusal(case) for name, case in cases.items()}


def prune_mode():
    """The early exits, with a panoptic branch and four image channels."""
    model = build(
        *("MODEL.PRUNE", True),
        *("MODEL.PANOPTIC_FPN.COMBINE.ENABLED", True),
        *("MODEL.PIXEL_MEAN", [1.0, 2.0, 3.0, 4.0]),
        *("MODEL.PIXEL_STD", [1.0, 1.0, 2.0, 2.0]),
    )
    outputs = model(batch(channels=4))
    features = model.backbone(torch.ones(1, 4, IMAGE, IMAGE))
    fcos, extras = model.proposal_generator(None, features, None, model.top_layer)
    return {
        "flags": [model.model_prune, model.proposal_generator.model_prune],
        "differentiable": all(x.requires_grad for level in outputs.values() for x in level),
        "outputs": {k: [x.detach() for x in v] for k, v in outputs.items()},
        "fcos": {k: [x.detach() for x in v] for k, v in fcos.items()},
        "extras": extras,
        "picklable": type(pickle.loads(pickle.dumps(model)).normalizer).__name__,
        **names(model),
    }


def basis_loss(checkpointer):
    """FINETUNE with LOSS_ON other than the checkpoint's; ``pruned.pth`` has the head."""
    finetune = ("MODEL.FINETUNE", True, "MODEL.BASIS_MODULE.LOSS_ON")
    off = build(*finetune, False, "MODEL.WEIGHTS", "pruned.pth")
    headless = build("MODEL.BASIS_MODULE.LOSS_ON", False)
    checkpointer(headless, ".").save("headless")
    return {
        "loss_on": off.basis_module.loss_on,
        "has head": hasattr(off.basis_module, "seg_head"),
        "losses": losses(off),
        "refusal": refusal(lambda: build(*finetune, True, "MODEL.WEIGHTS", "headless.pth")),
    }


def build(*options, **raw):
    """Build a small R-18 model; ``raw`` sets keys of MODEL without a check of their type."""
    from detectron2.config import get_cfg
    from detectron2.modeling import build_model

    cfg = get_cfg()
    cfg.merge_from_list([*SMALL, *options])
    for key, value in raw.items():
        cfg.MODEL[key] = value
    torch.manual_seed(0)
    return build_model(cfg)


def cut(model):
    """Halve the inner width of one block, by its structure alone, and move every weight."""
    import blendprune

    struct = blendprune.structure_of(model)
    prefix = "backbone.bottom_up.res3.0"
    for name in ("conv1", "conv1.norm", "conv2"):
        entry = struct["modules"][f"{prefix}.{name}"]
        side, axis = ("in_channels", 1) if name == "conv2" else ("out_channels", 0)
        for key, value in entry.items():
            if key in (side, "num_features"):
                entry[key] = value // 2
            elif isinstance(value, list):
                value[axis] //= 2
    blendprune.restructure(model, struct)
    # Away from what the seed gives, so that loading has something to do.
    for value in model.state_dict().values():
        if value.is_floating_point():
            value.mul_(1.01)
    return model


def names(model):
    state = model.state_dict()
    return {
        "parameters": [name for name, _ in model.named_parameters()],
        "keys": list(state),
        "metadata": {k: dict(v) for k, v in state._metadata.items()},
        "weights": [digest(value) for value in state.values()],
    }


def behaviour(model):
    return {"outputs": inference(model), "losses": losses(model)}


def inference(model):
    with torch.no_grad():
        rows = model.eval()([{"image": row["image"]} for row in batch()])
    return [{k: plain(v) for k, v in row["instances"].get_fields().items()} for row in rows]


def losses(model):
    from detectron2.utils.events import EventStorage

    model.train().zero_grad()
    with EventStorage():
        found = model(batch())
    sum(found.values()).backward()
    grads = [None if p.grad is None else digest(p.grad) for p in model.parameters()]
    return {"values": {k: v.detach() for k, v in found.items()}, "gradients": grads}


def batch(channels=3):
    from detectron2.structures import BitMasks, Boxes, Instances

    masks = torch.zeros(2, IMAGE, IMAGE, dtype=torch.bool)
    masks[0, 4:28, 6:30] = masks[1, 30:56, 20:50] = True
    instances = Instances((IMAGE, IMAGE))
    instances.gt_masks = BitMasks(masks)
    instances.gt_boxes = Boxes(torch.tensor([[6.0, 4, 30, 28], [20, 30, 50, 56]]))
    instances.gt_classes = torch.tensor([2, 0])
    image = torch.rand(channels, IMAGE, IMAGE, generator=torch.Generator().manual_seed(1)) * 255
    sem = masks[0].long() * 3 + masks[1].long()
    return [{"image": image, "instances": instances, "basis_sem": sem}]


def refusal(case):
    try:
        case()
    except Exception as error:
        return type(error).__name__, str(error)
    return "nothing was refused", ""


def plain(value):
    return getattr(value, "tensor", value).detach().clone()


def digest(tensor):
    return hashlib.sha256(tensor.detach().contiguous().numpy().tobytes()).hexdigest()


SMALL = (
    *("MODEL.META_ARCHITECTURE", "BlendMask"),
    *("MODEL.DEVICE", "cpu"),
    *("MODEL.MASK_ON", True),
    *("MODEL.BACKBONE.NAME", "build_fcos_resnet_fpn_backbone"),
    *("MODEL.BACKBONE.FREEZE_AT", 1),
    *("MODEL.RESNETS.DEPTH", 18),
    *("MODEL.RESNETS.NORM", "BN"),
    *("MODEL.RESNETS.RES2_OUT_CHANNELS", 64),
    *("MODEL.RESNETS.OUT_FEATURES", ["res3", "res4", "res5"]),
    *("MODEL.FPN.IN_FEATURES", ["res3", "res4", "res5"]),
    *("MODEL.FPN.OUT_CHANNELS", 32),
    *("MODEL.PROPOSAL_GENERATOR.NAME", "FCOS"),
    *("MODEL.FCOS.NUM_CLASSES", 3),
    *("MODEL.FCOS.NUM_CLS_CONVS", 1),
    *("MODEL.FCOS.NUM_BOX_CONVS", 1),
    *("MODEL.FCOS.TOP_LEVELS", 0),
    *("MODEL.FCOS.IN_FEATURES", ["p3", "p4", "p5"]),
    *("MODEL.FCOS.FPN_STRIDES", [8, 16, 32]),
    *("MODEL.FCOS.SIZES_OF_INTEREST", [32, 64]),
    *("MODEL.FCOS.INFERENCE_TH_TEST", 0.001),
    *("MODEL.BASIS_MODULE.NUM_CLASSES", 3),
    *("MODEL.BASIS_MODULE.CONVS_DIM", 16),
    *("MODEL.BASIS_MODULE.NUM_CONVS", 1),
    *("MODEL.BASIS_MODULE.NORM", "BN"),
    *("MODEL.BASIS_MODULE.LOSS_ON", True),
    *("MODEL.BLENDMASK.ATTN_SIZE", 4),
    *("MODEL.BLENDMASK.BOTTOM_RESOLUTION", 14),
    *("MODEL.PANOPTIC_FPN.COMBINE.ENABLED", False),
    *("MODEL.SEM_SEG_HEAD.IN_FEATURES", ["p3", "p4", "p5"]),
    *("MODEL.SEM_SEG_HEAD.COMMON_STRIDE", 8),
    *("MODEL.SEM_SEG_HEAD.CONVS_DIM", 32),
)


if __name__ == "__main__":
    main(*sys.argv[1:])
