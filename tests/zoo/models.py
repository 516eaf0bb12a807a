"""Models of the configs: built, pruned, and put to use."""

import os
import tempfile

import torch
from detectron2.checkpoint import DetectionCheckpointer
from detectron2.config import CfgNode

import blendprune
from blendprune.pruning import count_flops, head_outputs, prune
from blendprune.pruning.tracing.hooks import evaluating

from .batches import training_batch

_REGIONS = 12


def build_dense(config, size):
    """The model of a config, with random weights, for small images and few regions.

    Args:
        config (CfgNode | DictConfig): from :func:`load_config`.
        size (int): side of the image in pixels.

    Returns:
        nn.Module: in eval mode.
    """
    from detectron2.config import instantiate
    from detectron2.modeling import build_model

    if isinstance(config, CfgNode):
        config.INPUT.MIN_SIZE_TEST = size
        # A crop would fix the size of the image that ASPP pools.
        config.INPUT.CROP.ENABLED = False
        if "MEInst" in config.MODEL:
            # The encoding need not be read from its file.
            config.MODEL.MEInst.FLAG_PARAMETERS = True
        return allow_any_score(build_model(config)).eval()
    backbone = config.model.backbone
    if "square_pad" in backbone:
        backbone.square_pad = size
    if backbone.get("bottom_up", {}).get("use_act_checkpoint"):
        backbone.bottom_up.use_act_checkpoint = False
    return allow_any_score(instantiate(config.model)).eval()


def prune_and_use(config, size, max_flops=0.5, **how):
    """Prune the model of a config, then run, train, save, load and compare it.

    Args:
        config (CfgNode | DictConfig): from :func:`load_config`.
        size (int): side of the image in pixels.
        max_flops (float): as of :func:`blendprune.prune`, as everything in ``how``.

    Returns:
        dict: ``"flops"``, ``"params"`` and ``"notes"`` of the report, ``"result"``.

    Raises:
        AssertionError: something did not come out as it should.
    """
    model = build_dense(config, size)
    draw_mask_encoding(model)
    batch = training_batch(config, size)
    images = [
        {k: x[k] for k in ("image", "proposals", "height", "width") if k in x} for x in batch[:1]
    ]
    return prune_and_compare(
        model, images, batch, lambda path: load_again(path, config, size), max_flops, **how
    )


def prune_and_compare(model, images, batch, load, max_flops=0.5, **how):
    """Prune a model with random weights, then run, train, save, load and compare it.

    Args:
        model (nn.Module): in eval mode.
        images (list[dict]): for inference, in detectron2's format.
        batch (list[dict]): labelled, to train one step on.
        load (Callable): gives the model of the path of a checkpoint, for few regions.
        max_flops (float): as of :func:`blendprune.prune`, as everything in ``how``.

    Returns:
        dict: ``"flops"``, ``"params"`` and ``"notes"`` of the report, ``"result"``.

    Raises:
        AssertionError: something did not come out as it should.
    """
    settle_norms(model, images)
    report = prune(model, images, max_flops=max_flops, importance="magnitude", rounds=1, **how)
    flops = report.flops
    assert 0.98 * max_flops <= flops["after"] / flops["before"] <= max_flops
    assert flops["after"] == sum(count_flops(model, images).values())

    few_regions(model)
    with torch.no_grad():
        model(images)
    train_one_step(model, batch)
    with tempfile.TemporaryDirectory() as folder:
        DetectionCheckpointer(model, folder).save("model_pruned")
        loaded = load(os.path.join(folder, "model_pruned.pth"))
    assert_same(model, loaded, images)
    # For how many regions FLOPs are says nothing against a model.
    notes = [note for note in report.notes if not note.startswith("FLOPs are those of")]
    return {"flops": flops, "params": report.params, "notes": notes, "result": "green"}


def load_again(path, config, size):
    """Load a checkpoint, from the file alone where it carries a config, for few regions."""
    given = None if isinstance(config, CfgNode) else build_dense(config, size)
    loaded = allow_any_score(blendprune.load(path, model=given))
    few_regions(loaded)
    return loaded


def draw_mask_encoding(model):
    """Random principal components for MEInst, which are all zero until its file is read."""
    encoding = getattr(getattr(model, "proposal_generator", None), "mask_encoding", None)
    if encoding is not None:
        torch.nn.init.orthogonal_(encoding.components)
        torch.nn.init.ones_(encoding.explained_variances)


def settle_norms(model, images):
    """Give batch norms the statistics of what they see, frozen ones too.

    With random weights and statistics of mean 0 and variance 1, a deep residual network overflows.
    """
    from detectron2.layers import FrozenBatchNorm2d

    def settle(module, inputs):
        x = inputs[0].transpose(0, 1).flatten(1)
        module.running_mean.copy_(x.mean(1))
        module.running_var.copy_(x.var(1, unbiased=False).clamp(min=1e-2))

    kinds = (FrozenBatchNorm2d, torch.nn.modules.batchnorm._BatchNorm)
    handles = [m.register_forward_pre_hook(settle) for m in model.modules() if isinstance(m, kinds)]
    with evaluating(model):
        head_outputs(model, images)
    for handle in handles:
        handle.remove()


def allow_any_score(model):
    """Let detections of any score through, sample few regions to train on; return the model."""
    for module in model.modules():
        for name in ("test_score_thresh", "box_score_thresh"):
            if hasattr(module, name):
                setattr(module, name, 0.0)
        if hasattr(module, "forward_with_given_boxes"):
            module.batch_size_per_image = _REGIONS
    return model


def few_regions(model):
    """Keep few proposals and detections, so that heads that look at each do not take long."""
    for module in model.modules():
        if hasattr(module, "post_nms_topk"):
            module.post_nms_topk = {True: _REGIONS, False: _REGIONS}
        if hasattr(module, "test_topk_per_image"):
            module.test_topk_per_image = _REGIONS


def train_one_step(model, batch):
    """One step of SGD; every parameter that is trained must get a gradient. Returns the losses."""
    from detectron2.utils.events import EventStorage

    model.train()
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.SGD(trained, lr=1e-5)
    with EventStorage():
        losses = model(batch)
    total = sum(losses.values())
    assert torch.isfinite(total), f"the losses are not finite: {losses}"
    total.backward()
    missing = [n for n, p in model.named_parameters() if p.requires_grad and p.grad is None]
    assert not missing, f"no gradient reaches {', '.join(missing)}"
    # What random weights give may be so large that the next forward would overflow.
    torch.nn.utils.clip_grad_norm_(trained, 1.0, error_if_nonfinite=True)
    optimizer.step()
    model.eval()
    return losses


def assert_same(model, loaded, images):
    """Fail unless both models hold the same state and give the same outputs, bit by bit."""
    state, other = model.state_dict(), loaded.state_dict()
    assert list(state) == list(other)
    assert all(torch.equal(value, other[key]) for key, value in state.items())
    for run in (head_outputs, lambda m, x: list(tensors_of(m(x)))):
        with evaluating(model), evaluating(loaded), torch.no_grad():
            ours, theirs = run(model, images), run(loaded, images)
        assert len(ours) == len(theirs) > 0
        assert all(torch.equal(a, b) for a, b in zip(ours, theirs))


def tensors_of(output):
    """All tensors in what a detector returns: dicts, lists, Instances, Boxes."""
    if isinstance(output, torch.Tensor):
        yield output
    elif hasattr(output, "get_fields"):
        yield from tensors_of(output.get_fields())
    elif hasattr(output, "tensor"):
        yield output.tensor
    elif isinstance(output, dict):
        for value in output.values():
            yield from tensors_of(value)
    elif isinstance(output, (list, tuple)):
        for value in output:
            yield from tensors_of(value)
