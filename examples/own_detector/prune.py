"""Prune the made-up detector, train it one step, save it, and load it again.

::

    python examples/own_detector/prune.py --output output/own_detector
"""

import argparse
import os

import prunable  # noqa: F401  (registers the architecture)
import torch
from detectron2.checkpoint import DetectionCheckpointer
from detectron2.structures import Boxes, Instances
from model import CentreDetector

import blendprune
from blendprune.pruning import pruning_table


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", default="output/own_detector", metavar="DIR")
    args = parser.parse_args()
    torch.manual_seed(0)
    blendprune.apply()
    model, batches = CentreDetector(), [random_batch() for _ in range(4)]

    images = [{"image": batches[0][0]["image"]}]
    print(pruning_table(blendprune.prune(model, images, max_flops=0.5, data=batches)))

    optimizer = torch.optim.SGD(model.train().parameters(), lr=0.01)
    sum(model(batches[0]).values()).backward()
    optimizer.step()
    os.makedirs(args.output, exist_ok=True)
    DetectionCheckpointer(model, args.output).save("model_pruned")

    path = os.path.join(args.output, "model_pruned.pth")
    loaded = blendprune.load(path, model=CentreDetector())
    outputs = [each.eval().predict(each.features(images)) for each in (model, loaded)]
    same = all(torch.equal(a, b) for a, b in zip(*outputs))
    print(f"{path}: loaded, outputs {'identical' if same else 'DIFFERENT'}")


def random_batch(size=64):
    """Two images of noise with one object each."""
    batch = []
    for _ in range(2):
        instances = Instances((size, size))
        instances.gt_boxes = Boxes(torch.tensor([[8.0, 8, 40, 48]]))
        instances.gt_classes = torch.tensor([1])
        batch.append({"image": 255 * torch.rand(3, size, size), "instances": instances})
    return batch


if __name__ == "__main__":
    main()
