"""Check that a saved file alone rebuilds a model: run it in a new process."""

import os
import subprocess
import sys
import tempfile

import torch


def outputs_in_new_process(path, images):
    """Rebuild a model from its file in a new process and run it.

    The new process uses the same number of threads, because sums on a CPU depend on it.

    Args:
        path (str): a checkpoint that `blendprune.load` reads.
        images (list[Tensor]): each (C, H, W), any size.

    Returns:
        list[dict[str, Tensor]]: the result of `detections`, per image.

    Raises:
        RuntimeError: the new process failed; the message has the end of its error output.
    """
    with tempfile.TemporaryDirectory() as folder:
        asked, answered = os.path.join(folder, "images.pth"), os.path.join(folder, "outputs.pth")
        torch.save(images, asked)
        paths = [entry or os.getcwd() for entry in sys.path]
        done = subprocess.run(
            [sys.executable, "-m", __name__, path, asked, answered, str(torch.get_num_threads())],
            env={**os.environ, "PYTHONPATH": os.pathsep.join(paths)},
            capture_output=True,
            text=True,
        )
        if done.returncode:
            tail = "\n".join(done.stderr.strip().splitlines()[-5:])
            raise RuntimeError(f"{path} could not be reloaded in a new process:\n{tail}")
        return torch.load(answered)


@torch.no_grad()
def detections(model, images):
    """Run a model on images one by one.

    Args:
        model (nn.Module): in eval mode.
        images (list[Tensor]): each (C, H, W).

    Returns:
        list[dict[str, Tensor]]: per image boxes (N, 4), scores (N,), classes (N,) and masks
        (N, H, W), on the CPU; masks only if the model predicts them.
    """
    outputs = []
    for image in images:
        instances = model([{"image": image}])[0]["instances"].to("cpu")
        fields = {
            "boxes": instances.pred_boxes.tensor,
            "scores": instances.scores,
            "classes": instances.pred_classes,
        }
        if instances.has("pred_masks"):
            fields["masks"] = instances.pred_masks
        outputs.append(fields)
    return outputs


def are_identical(one, other):
    """Whether two results of `detections` are equal bit by bit."""
    return len(one) == len(other) and all(
        a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)
        for a, b in zip(one, other, strict=True)
    )


def _main(path, asked, answered, threads):
    import blendprune

    torch.set_num_threads(int(threads))
    torch.save(detections(blendprune.load(path).eval(), torch.load(asked)), answered)


if __name__ == "__main__":
    _main(*sys.argv[1:])
