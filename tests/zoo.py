"""The zoo: every config, yaml or Python, of detectron2 and AdelaiDet, pruned and put to use.

::

    python -m tests.zoo                                 # all of them: takes an hour on one core
    python -m tests.zoo 'COCO-Keypoints/*' '*retinanet*'
    ADELAIDET_ROOT=~/AdelaiDet python -m tests.zoo 'AdelaiDet/FCOS*'
    DETECTRON2_ROOT=~/detectron2 python -m tests.zoo 'projects/*'

Each model is built with random weights, pruned to half its FLOPs (magnitude, one round), run on an
image, trained one step, saved, loaded and compared bit by bit. Results are kept in ``--output`` (a
JSON file), and configs in it are not run again; tables of all of them are printed at the end::

    ## detectron2, yaml

    | config | GFLOPs | after | M params | after | |
    |---|---|---|---|---|---|
    | COCO-Detection/retinanet_R_50_FPN_1x.yaml | 12.1 | 6.0 | 37.7 | 20.1 | green |

Models are those of the configs but for the size of the image and the number of regions that
training samples and inference keeps, which are small, and MEInst's encoding of masks, which is as
random as the weights: the file that it is read from is not part of AdelaiDet's repository. Large
transformers do without activation checkpointing, which saves memory in training by fairscale.
"""

import argparse
import contextlib
import fnmatch
import gc
import json
import logging
import os
import pathlib
import sys
import tempfile
import time
import types
import warnings

import torch
from detectron2.checkpoint import DetectionCheckpointer
from detectron2.config import CfgNode

import blendprune
from blendprune.errors import TargetUnreachable
from blendprune.pruning import count_flops, head_outputs, prune
from blendprune.pruning.view import evaluating

_REGIONS = 12
# Parts of other configs, a classifier, and a model of mmdetection.
_NO_DETECTOR = {"common", "torchvision_imagenet_R_50.py", "mmdet_mask_rcnn_R_50_FPN_1x.py"}


def main(argv=None):
    """Run the configs that the arguments name and print the table.

    Returns:
        int: 0 if all are green.
    """
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("patterns", nargs="*", default=["*"], help="globs of config names")
    parser.add_argument("--output", default="zoo.json", help="results so far, to go on from")
    parser.add_argument("--size", type=int, default=128, help="side of the image in pixels")
    parser.add_argument("--again", action="store_true", help="run also what is in the results")
    args = parser.parse_args(argv)
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    if "ADELAIDET_ROOT" in os.environ:
        # Before the overlay looks whether it has to stand in for what is not compiled.
        sys.path.insert(0, os.environ["ADELAIDET_ROOT"])
    blendprune.apply()
    output = pathlib.Path(args.output)
    results = json.loads(output.read_text()) if output.exists() else {}
    chosen = [n for n in config_names() if any(fnmatch.fnmatch(n, p) for p in args.patterns)]
    for name in chosen:
        if name in results and not args.again:
            continue
        results[name] = run_config(name, args.size)
        output.write_text(json.dumps(results, indent=1))
        print(name, results[name]["result"], f"{results[name]['wall_s']:.0f} s", flush=True)
        gc.collect()
    print(zoo_tables({name: results[name] for name in chosen}))
    return int(any(results[name]["result"] != "green" for name in chosen))


def config_names():
    """Names of all configs: detectron2's, and those of its projects and of AdelaiDet where
    DETECTRON2_ROOT and ADELAIDET_ROOT are set."""
    names = sorted(_names_under(_zoo_folder()))
    root = os.environ.get("DETECTRON2_ROOT")
    if root:
        for project in PROJECTS:
            folder = pathlib.Path(root) / "projects" / project / "configs"
            names += sorted(f"projects/{project}/configs/{n}" for n in _names_under(folder))
    root = os.environ.get("ADELAIDET_ROOT")
    if root:
        found = _names_under(pathlib.Path(root) / "configs")
        names += sorted(f"AdelaiDet/{name}" for name in found)
    return names


def _zoo_folder():
    import detectron2.model_zoo

    return pathlib.Path(detectron2.model_zoo.__file__).parent / "configs"


def _names_under(folder):
    paths = [p.relative_to(folder) for kind in ("yaml", "py") for p in folder.rglob(f"*.{kind}")]
    # What is named so is for others to build upon; most of them are no whole model.
    whole = (p for p in paths if not p.name.startswith("Base-"))
    return [str(p) for p in whole if not _NO_DETECTOR & set(p.parts)]


def run_config(name, size=128):
    """Build, prune, use and reload the model of one config.

    Args:
        name (str): one of :func:`config_names`.
        size (int): side of the image in pixels.

    Returns:
        dict: ``"result"`` is ``"green"`` or the reason why not; ``"flops"`` and ``"params"``, each
        before and after, where it could be cut and used; ``"wall_s"`` seconds.
    """
    start = time.perf_counter()
    # Some heads shuffle regions over the processes that train.
    processes = one_process_group() if "shuffle" in name else contextlib.nullcontext()
    try:
        with processes:
            found = _half_or_least(name, size)
    except Exception as error:  # the table is there to tell what happens
        reason = f"{type(error).__name__}: {str(error).strip()[:300]}".replace("\n", " ")
        found = {"result": reason}
    return {**found, "wall_s": time.perf_counter() - start}


def _half_or_least(name, size):
    try:
        return prune_and_use(load_config(name), size)
    except TargetUnreachable as error:
        least = error.reachable
    found = prune_and_use(load_config(name), size, least)
    return {**found, "result": f"cut and used, but to no less than {least:.3f} of its FLOPs"}


@contextlib.contextmanager
def one_process_group():
    """A process group of this process alone."""
    from torch import distributed

    distributed.init_process_group("gloo", store=distributed.HashStore(), rank=0, world_size=1)
    try:
        yield
    finally:
        distributed.destroy_process_group()


def load_config(name):
    """The config of that name, for the CPU and without weights.

    Returns:
        CfgNode | DictConfig: as upstream's ``get_cfg()`` merged with the file; of a LazyConfig
        the whole file.
    """
    from detectron2 import model_zoo
    from detectron2.config import LazyConfig, get_cfg

    if name.startswith("AdelaiDet/"):
        import adet.modeling  # noqa: F401  (registers)
        from adet.config import get_cfg

        path = os.path.join(os.environ["ADELAIDET_ROOT"], "configs", name.split("/", 1)[1])
    elif name.startswith("projects/"):
        path = os.path.join(os.environ["DETECTRON2_ROOT"], name)
    else:
        path = model_zoo.get_config_file(name)
    if name.endswith(".py"):
        return LazyConfig.load(path)
    cfg = get_cfg()
    project = PROJECTS.get(name.split("/")[1]) if name.startswith("projects/") else None
    if project is not None:
        project(cfg)
    cfg.merge_from_file(path)
    cfg.MODEL.DEVICE, cfg.MODEL.WEIGHTS = "cpu", ""
    return cfg


def _point_rend(cfg):
    from detectron2.projects.point_rend import add_pointrend_config

    add_pointrend_config(cfg)


def _deeplab(cfg):
    from detectron2.projects.deeplab import add_deeplab_config

    add_deeplab_config(cfg)


def _panoptic_deeplab(cfg):
    # What reads panoptic images from disk wants panopticapi, which is on no package index.
    sys.modules.setdefault("panopticapi", types.ModuleType("panopticapi"))
    utils = sys.modules.setdefault("panopticapi.utils", types.ModuleType("panopticapi.utils"))
    utils.__dict__.setdefault("rgb2id", None)
    from detectron2.projects.panoptic_deeplab import add_panoptic_deeplab_config

    add_panoptic_deeplab_config(cfg)


# Folders of upstream's projects/ that the zoo covers, and what adds their keys to a config.
PROJECTS = {
    "DeepLab": _deeplab,
    "MViTv2": None,
    "Panoptic-DeepLab": _panoptic_deeplab,
    "PointRend": _point_rend,
    "Rethinking-BatchNorm": None,
    "ViTDet": None,
}


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
            config.MODEL.MEInst.FLAG_PARAMETERS = (
                True  # the encoding need not be read from its file
            )
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
        path = os.path.join(folder, "model_pruned.pth")
        DetectionCheckpointer(model, folder).save("model_pruned")
        loaded = load_again(path, config, size)
    assert_same(model, loaded, images)
    return {"flops": flops, "params": report.params, "notes": report.notes, "result": "green"}


def load_again(path, config, size):
    """Load a checkpoint, from the file alone where it carries a config, for few regions."""
    given = None if isinstance(config, CfgNode) else build_dense(config, size)
    loaded = allow_any_score(blendprune.load(path, model=given))
    few_regions(loaded)
    return loaded


def training_batch(config, size, count=2):
    """Random images with whatever labels the losses of a model may read.

    Args:
        config (CfgNode | DictConfig): from :func:`load_config`.
        size (int): side in pixels, at least 32.
        count (int): number of images.

    Returns:
        list[dict]: detectron2's format: ``"image"`` (C, size, size), ``"instances"`` with boxes,
        classes (all 0), masks, keypoints and (BAText, FCPose) texts and heatmaps, ``"sem_seg"`` and
        ``"basis_sem"`` (size, size), ``"proposals"``, and the center heatmap and offsets
        (2, size, size) of Panoptic-DeepLab.
    """
    from detectron2.structures import BitMasks, Boxes, Instances, Keypoints

    yaml = isinstance(config, CfgNode)
    channels = len(config.MODEL.PIXEL_MEAN) if yaml else 3
    points = max(config.MODEL.ROI_KEYPOINT_HEAD.NUM_KEYPOINTS, 1) if yaml else 17
    random = torch.Generator().manual_seed(0)
    corners = torch.tensor([[0.1, 0.1, 0.6, 0.7], [0.3, 0.2, 0.9, 0.9]]) * size
    batch = []
    for _ in range(count):
        instances = Instances((size, size))
        instances.gt_boxes = Boxes(corners.clone())
        instances.gt_classes = torch.zeros(2, dtype=torch.long)
        masks = torch.zeros(2, size, size, dtype=torch.bool)
        for mask, (x0, y0, x1, y1) in zip(masks, corners.int().tolist()):
            mask[y0:y1, x0:x1] = True
        instances.gt_masks = BitMasks(masks)
        where = torch.rand(2, points, 2, generator=random)
        where = corners[:, None, :2] + where * (corners[:, None, 2:] - corners[:, None, :2])
        visible = torch.full((2, points, 1), 2.0)
        instances.gt_keypoints = Keypoints(torch.cat([where, visible], 2))
        proposals = Instances((size, size))
        proposals.proposal_boxes = Boxes(corners.clone() * 0.95)
        proposals.objectness_logits = torch.zeros(2)
        if yaml and config.MODEL.META_ARCHITECTURE == "OneStageRCNN":
            label_texts(instances, config)
        if yaml and config.MODEL.get("FCPOSE_ON", False):
            label_heatmaps(instances, config)
        image = 255 * torch.rand(channels, size, size, generator=random)
        batch.append(
            {
                "image": image,
                "instances": instances,
                "proposals": proposals,
                "height": size,
                "width": size,
                "sem_seg": masks.any(0).long(),
                "basis_sem": masks.any(0).long(),
                "center": masks.any(0).float(),
                "center_weights": torch.ones(size, size),
                "offset": torch.rand(2, size, size, generator=random),
                "offset_weights": torch.ones(size, size),
            }
        )
    return batch


def label_texts(instances, cfg):
    """Give each object the Bezier curves of its box and a random text, as BAText's mapper does.

    ``"beziers"`` (N, 16): x and y of the control points of the upper edge from left to right, and
    of the lower one from right to left. ``"text"`` (N, BATEXT.NUM_CHARS): classes of characters,
    filled up with VOC_SIZE, which is none.
    """
    size, most = cfg.MODEL.BATEXT.VOC_SIZE, cfg.MODEL.BATEXT.NUM_CHARS
    curves = []
    for x0, y0, x1, y1 in instances.gt_boxes.tensor.tolist():
        along = torch.linspace(x0, x1, 4)
        upper = torch.stack([along, torch.full((4,), y0)], 1)
        lower = torch.stack([along.flip(0), torch.full((4,), y1)], 1)
        curves.append(torch.cat([upper, lower]).flatten())
    instances.beziers = torch.stack(curves)
    instances.text = torch.randint(size, (len(instances), most), dtype=torch.int32)
    instances.text[:, most // 2 :] = size


def label_heatmaps(instances, cfg):
    """Draw the heatmaps of the keypoints, by what FCPose's mapper draws them with."""
    from adet.data.detection_utils import HeatmapGenerator

    how = cfg.MODEL.FCPOSE
    draw = HeatmapGenerator(17, how.HEATMAP_SIGMA, how.HEAD_HEATMAP_SIGMA)
    draw(instances, how.GT_HEATMAP_STRIDE)


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


def zoo_tables(results):
    """The results as tables in Markdown, one a kind of config.

    Args:
        results (dict[str, dict]): name of a config → what :func:`run_config` gave.

    Returns:
        str: for each kind a heading, one row a config, and how many are green.
    """
    sections = {}
    for name, found in results.items():
        sections.setdefault(_kind(name), {})[name] = found
    return "\n\n".join(f"## {kind}\n\n{_table(rows)}" for kind, rows in sections.items())


def _kind(name):
    if name.startswith("AdelaiDet/"):
        return "AdelaiDet"
    if name.startswith("projects/"):
        return "detectron2's projects"
    return "detectron2, LazyConfigs" if name.endswith(".py") else "detectron2, yaml"


def _table(results):
    rows = ["| config | GFLOPs | after | M params | after | |", "|---|---|---|---|---|---|"]
    for name, found in results.items():
        cells = []
        for kind, unit in (("flops", 1e9), ("params", 1e6)):
            values = found.get(kind, {})
            cells += [f"{values[k] / unit:.2f}" if values else "" for k in ("before", "after")]
        reason = found["result"].replace("|", "\\|")
        for root in ("ADELAIDET_ROOT", "DETECTRON2_ROOT"):
            reason = reason.replace(os.environ.get(root) or "\0", "…")
        rows.append(f"| {name} | {' | '.join(cells)} | {reason} |")
    green = sum(found["result"] == "green" for found in results.values())
    return "\n".join([*rows, "", f"{green} of {len(results)} green."])


if __name__ == "__main__":
    sys.exit(main())
