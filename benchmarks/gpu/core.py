"""The tensor core of a model as one call, on inputs that it saw once."""

import torch

from blendprune.deployment.parts import PartFinder
from blendprune.pruning.graph.forwards import run_stages


def core_parts(model, images):
    """Names of the parts of the tensor core.

    Args:
        model (nn.Module): not deployed.
        images (list[dict]): to run it on.

    Returns:
        list[tuple[str, str]]: of each part the name of the module and its method.
    """
    names = {module: name for name, module in model.named_modules()}

    def run():
        run_stages(model, images, training_branches=False)

    return [(names[part.module], part.method) for part in PartFinder(model, run)().parts]


@torch.no_grad()
def core_call(model, parts, images):
    """A function that runs the tensor core of a model, and nothing else.

    The heads run on as many regions as inference keeps: 1000 proposals and 100 detections per image
    in a Mask R-CNN.

    Args:
        model (nn.Module): with these parts; deployed or not.
        parts (list[tuple[str, str]]): from :func:`core_parts` of the dense model.
        images (list[dict]): to take the inputs of the parts from.

    Returns:
        Callable: runs every part once on the inputs that it got.
    """
    calls = []
    for name, method in parts:
        owner = model.get_submodule(name)
        before, bound = vars(owner).get(method), getattr(owner, method)
        vars(owner)[method] = _Recording(bound, before, calls)
    try:
        run_stages(model, images, training_branches=False, all_regions=True)
    finally:
        for name, method in parts:
            owner = model.get_submodule(name)
            before = vars(owner)[method].before
            if before is None:
                del vars(owner)[method]
            else:
                vars(owner)[method] = before

    def run():
        for bound, args, kwargs in calls:
            bound(*args, **kwargs)

    return run


class _Recording:
    """A method that remembers its calls."""

    def __init__(self, bound, before, calls):
        self.bound, self.before, self.calls = bound, before, calls

    def __call__(self, *args, **kwargs):
        self.calls.append((self.bound, args, kwargs))
        return self.bound(*args, **kwargs)
