"""A detector from cores beside the model that they were taken from."""

import torch
from detectron2.structures import Instances

from blendprune.deployment.cores import cores_of, pack_metadata, read_metadata
from blendprune.deployment.runtime import Detector
from blendprune.deployment.runtime.engines import TorchEngine


def detector_of(model):
    """A detector of a model's cores in PyTorch, its settings through JSON and back."""
    found = cores_of(model)
    files = {name: f"{name}.onnx" for name in list(found.cores)[1:]}
    metadata = read_metadata(pack_metadata(found, files))
    engines = {name: TorchEngine(core) for name, core in found.cores.items()}
    return Detector(metadata.family, metadata.settings, engines)


def two_sizes(images):
    """The images, the second one smaller, with a result of another size than the image's."""
    first, second = images
    height, width = second["image"].shape[1:]
    cropped = second["image"][:, : height * 2 // 3, : width - 11]
    smaller = {**second, "image": cropped, "height": height + 5, "width": width - 3}
    if "proposals" in second:
        boxes = second["proposals"].proposal_boxes
        smaller["proposals"] = Instances(
            tuple(cropped.shape[1:]), **second["proposals"].get_fields()
        )
        assert len(boxes)
    first = {key: value for key, value in first.items() if key not in ("height", "width")}
    return [first, smaller]


def assert_same(ours, theirs, tolerance=1e-4):
    """Fail unless two results are alike: the same instances in the same order, the same maps.

    Args:
        ours, theirs (list[dict]): what model and detector return.
        tolerance (float): of every number, relative to the largest one, or to 1.
    """
    assert len(ours) == len(theirs) > 0
    for a, b in zip(ours, theirs):
        assert a.keys() == b.keys()
        for key in a:
            _assert_same_value(a[key], b[key], tolerance)


def _assert_same_value(a, b, tolerance):
    if isinstance(a, Instances):
        assert len(a) == len(b) and a.image_size == b.image_size
        fields, others = a.get_fields(), b.get_fields()
        assert fields.keys() == others.keys()
        for name, value in fields.items():
            _assert_same_value(
                getattr(value, "tensor", value),
                getattr(others[name], "tensor", others[name]),
                tolerance,
            )
    elif isinstance(a, torch.Tensor):
        assert a.shape == b.shape and a.dtype == b.dtype
        difference = (a.float() - b.float()).abs()
        if a.dim() == 3 and not (a.float() % 1).any():
            # Of a mask, a pixel at the threshold may fall the other way.
            assert float(difference.sum()) <= 1e-3 * a.numel()
        elif a.numel():
            scale = max(1.0, float(a.float().abs().max()))
            assert float(difference.max()) <= tolerance * scale
    else:
        panoptic, segments = a
        assert torch.equal(panoptic, b[0])
        assert [x["category_id"] for x in segments] == [x["category_id"] for x in b[1]]


def instances_of(result):
    """What a model found in an image."""
    return result.get("instances", result.get("proposals"))


def count(results):
    """Number of detections of each image."""
    return [len(instances_of(x)) for x in results]
