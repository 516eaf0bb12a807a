"""What the overlay costs: the same model unpatched and patched, in turns.

::

    python -m benchmarks.overlay               # five minutes; ratios near 1 need an idle machine

Models: Mask R-CNN FPN with ResNet-18 and ResNet-50. Of the two, only ResNet-18 has basic blocks,
whose norms the overlay separates. ``forward`` is inference without detections; ``step`` is a
training step: losses, backward, SGD. The unpatched model is built and timed without the overlay,
the patched one with it; they have the same weights. The ratio is the median over pairs that ran
next to each other.

``apply()`` is timed in processes of their own, after detectron2's modules are imported, with
bytecode that an earlier process left, as Python does unless it is told not to.
"""

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
import warnings

import torch
from tabulate import tabulate

import blendprune

_CONFIG = "COCO-InstanceSegmentation/mask_rcnn_R_50_FPN_3x.yaml"
_APPLY = """
import time, warnings
warnings.simplefilter("ignore")
import blendprune, detectron2.engine, detectron2.modeling
from detectron2.checkpoint import DetectionCheckpointer
start = time.perf_counter()
blendprune.apply()
print(1e3 * (time.perf_counter() - start))
"""


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--depths", type=int, nargs="+", default=[18, 50])
    parser.add_argument("--sizes", type=int, nargs="+", default=[64, 320])
    parser.add_argument("--runs", type=int, default=40)
    args = parser.parse_args(argv)
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    rows = []
    for depth in args.depths:
        pair = _Pair(depth)
        for size in args.sizes:
            for work in (pair.forward, pair.step):
                rows.append(pair.compare(work, size, args.runs))
    print(tabulate(rows, headers="keys", tablefmt="pipe", floatfmt=".3f"))
    with tempfile.TemporaryDirectory() as folder:
        times = [float(_run_apart(_APPLY, folder)) for _ in range(10)][1:]
    print(f"\napply(): {statistics.median(times):.1f} ms, median of {len(times)} processes")
    for depth in args.depths:
        plain, patched = _checkpoint_sizes(_Pair(depth))
        print(
            f"checkpoint, R-{depth}: {plain} bytes unpatched, {patched} bytes patched, "
            f"{100 * (patched / plain - 1):.2f} % more"
        )


class _Pair:
    """A model built without the overlay, and the same one built with it.

    Args:
        depth (int): of the ResNet.
    """

    def __init__(self, depth):
        self.depth = depth
        self.models = {"unpatched": _build(depth)}
        with blendprune.applied():
            self.models["patched"] = _build(depth)
            self.models["patched"].load_state_dict(self.models["unpatched"].state_dict())
        self.optimizers = {
            name: torch.optim.SGD(model.parameters(), 1e-6) for name, model in self.models.items()
        }

    def forward(self, name, inputs):
        """Run inference."""
        with torch.no_grad():
            self.models[name].eval()(inputs)

    def step(self, name, inputs):
        """Run a training step."""
        from detectron2.utils.events import EventStorage

        with EventStorage():
            losses = self.models[name].train()(inputs)
        self.optimizers[name].zero_grad()
        sum(losses.values()).backward()
        self.optimizers[name].step()

    def compare(self, work, size, runs, warmup=3):
        """Time both models in turns.

        Returns:
            dict: a row of the table.
        """
        inputs, ratios, times = _inputs(size), [], {"unpatched": [], "patched": []}
        for run in range(-warmup, runs):
            # Every order as often as the other.
            for name in sorted(times, reverse=run % 2 == 0):
                # What a random sampler of proposals takes is the same for both.
                torch.manual_seed(run)
                if name == "patched":
                    blendprune.apply()
                start = time.perf_counter()
                work(name, inputs)
                elapsed = time.perf_counter() - start
                blendprune.revert()
                if run >= 0:
                    times[name].append(1e3 * elapsed)
        ratios = [b / a for a, b in zip(times["unpatched"], times["patched"])]
        low, middle, high = statistics.quantiles(ratios, n=4)
        return {
            "Mask R-CNN FPN": f"R-{self.depth}",
            "pixels": size,
            "what": work.__name__,
            "unpatched (ms)": statistics.median(times["unpatched"]),
            "patched (ms)": statistics.median(times["patched"]),
            "ratio": middle,
            "quartiles": f"{low:.3f} – {high:.3f}",
        }


def _build(depth):
    from detectron2 import model_zoo
    from detectron2.config import get_cfg
    from detectron2.modeling import build_model

    cfg = get_cfg()
    cfg.merge_from_file(model_zoo.get_config_file(_CONFIG))
    cfg.MODEL.DEVICE, cfg.MODEL.RESNETS.DEPTH = "cpu", depth
    cfg.MODEL.RESNETS.RES2_OUT_CHANNELS = 64 if depth < 50 else 256
    cfg.MODEL.ROI_HEADS.SCORE_THRESH_TEST = 0.99
    cfg.MODEL.RPN.POST_NMS_TOPK_TEST = cfg.MODEL.RPN.POST_NMS_TOPK_TRAIN = 100
    return build_model(cfg)


def _inputs(size):
    from detectron2.structures import BitMasks, Boxes, Instances

    random = torch.Generator().manual_seed(0)
    image = torch.randint(0, 256, (3, size, size), generator=random, dtype=torch.uint8)
    instances = Instances((size, size))
    box = torch.tensor([[size / 4, size / 4, size / 2, size / 2]])
    instances.gt_boxes, instances.gt_classes = Boxes(box), torch.zeros(1, dtype=torch.int64)
    mask = torch.zeros(1, size, size, dtype=torch.bool)
    mask[:, size // 4 : size // 2, size // 4 : size // 2] = True
    instances.gt_masks = BitMasks(mask)
    return [{"image": image, "instances": instances, "height": size, "width": size}]


def _checkpoint_sizes(pair):
    from detectron2.checkpoint import DetectionCheckpointer

    with tempfile.TemporaryDirectory() as folder:
        DetectionCheckpointer(pair.models["unpatched"], folder).save("unpatched")
        with blendprune.applied():
            DetectionCheckpointer(pair.models["patched"], folder).save("patched")
        return [
            os.path.getsize(os.path.join(folder, f"{name}.pth"))
            for name in ("unpatched", "patched")
        ]


def _run_apart(script, bytecode):
    """The last line that a script prints in a new process."""
    environment = dict(os.environ, PYTHONPYCACHEPREFIX=bytecode, PYTHONDONTWRITEBYTECODE="")
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", script],
        **{"capture_output": True, "text": True, "check": True, "env": environment},
    )
    return done.stdout.splitlines()[-1]


if __name__ == "__main__":
    main()
