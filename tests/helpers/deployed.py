"""A deployed model beside the model that it was made from."""

import torch

from blendprune.pruning import prediction_layers
from blendprune.pruning.graph.forwards import run_stages
from blendprune.pruning.tracing.hooks import evaluating, forward_hooks


def predictions_of_both(model, deployed, images):
    """What the prediction layers of both give on the same images, with the same regions.

    Returns:
        dict[str, list[tuple[Tensor, Tensor]]]: name of the layer → one pair per call.
    """
    names = {module: name for name, module in model.named_modules()}
    with evaluating(model, grad=True):
        layers = [names[layer] for layer in prediction_layers(model, images)]
    ours, theirs = (_outputs(each, layers, images) for each in (model, deployed))
    assert [name for name, _ in ours] == [name for name, _ in theirs]
    found = {}
    for (name, a), (_, b) in zip(ours, theirs):
        found.setdefault(name, []).append((a, b))
    return found


def _outputs(model, names, images):
    found = []
    layers = {model.get_submodule(name): name for name in names}

    def record(layer, inputs, output):
        found.append((layers[layer], output.detach().clone()))

    with evaluating(model), forward_hooks(layers, record):
        run_stages(model, images, training_branches=False)
    return found


def relative_difference(a, b):
    """Largest difference relative to the largest number of ``a``, or to 1 if that is less."""
    assert a.shape == b.shape
    a, b = a.detach(), b.detach()
    return float((a - b).abs().max() / a.abs().max().clamp(min=1)) if a.numel() else 0.0


def assert_same_results(ours, theirs, tolerance=2e-4):
    """Fail unless two models give the same detections and maps for each image.

    Detections of nearly the same score may change places, and one at a threshold may be missing.

    Args:
        ours, theirs (list[dict]): what the models return.
        tolerance (float): of maps, relative to the largest number; of boxes, 25 times as many
            pixels.
    """
    assert len(ours) == len(theirs) > 0
    for ours_here, theirs_here in zip(ours, theirs):
        assert ours_here.keys() == theirs_here.keys()
        for key, value in ours_here.items():
            if isinstance(value, torch.Tensor):
                difference = relative_difference(value, theirs_here[key])
                assert difference < tolerance, f"{key} differs by {difference:.1e}"
            elif hasattr(value, "get_fields"):
                _assert_same_instances(value, theirs_here[key], tolerance)


def _assert_same_instances(ours, theirs, tolerance):
    assert len(ours) > 0, "nothing was found"
    assert abs(len(ours) - len(theirs)) <= max(1, len(ours) // 20), (len(ours), len(theirs))
    fields = ours.get_fields()
    assert fields.keys() == theirs.get_fields().keys()
    boxes = "pred_boxes" if ours.has("pred_boxes") else "proposal_boxes"
    scores = "scores" if ours.has("scores") else "objectness_logits"
    distances = _distances(ours.get(boxes).tensor, theirs.get(boxes).tensor)
    distances += _distances(ours.get(scores)[:, None], theirs.get(scores)[:, None])
    closest, at = distances.min(1)
    same = closest < 25 * tolerance
    assert same.float().mean() >= 0.9, f"detections differ by up to {float(closest.max()):.1e}"
    for name in ("scores", "pred_masks", "pred_keypoints"):
        if name in fields:
            a, b = fields[name][same].float(), theirs.get(name)[at[same]].float()
            assert a.dtype == b.dtype and a.shape == b.shape
            # A pixel or a keypoint at a threshold may fall the other way.
            assert ((a - b).abs() > 1e-4 * max(1, float(a.abs().max()))).float().mean() < 0.05


def _distances(a, b):
    # By products, it would lose too many digits.
    return torch.cdist(a, b, compute_mode="donot_use_mm_for_euclid_dist")
