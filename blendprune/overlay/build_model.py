"""``detectron2.modeling.build_model``: MODEL.FINETUNE and MODEL.PRUNE for every architecture.

Extended: the function, in its module and in every module that imported it by name. It stores the
config on the model, so a checkpoint's ``"struct"`` contains it. Under MODEL.FINETUNE it reshapes
the model to the checkpoint's widths. Under MODEL.PRUNE the class's ``forward`` returns the raw
outputs; with a target, the script prunes at the model's first forward in training, if no trainer
does before. Left alone: models that do the first two themselves (BlendMask).
"""

import torch

from .. import structure
from ..checkpoint import build_mode
from ..checkpoint.loading import restructure_from
from ..config import asks_the_loop
from ._patch import Patch


def leave_early(wrapped, instance, args, kwargs):
    """Return the raw head outputs if ``model_prune`` is set, else upstream's results.

    Returns:
        list[Tensor]: see :func:`blendprune.pruning.graph.outputs.head_outputs`.
    """
    if not getattr(instance, "model_prune", False):
        return wrapped(*args, **kwargs)
    from ..pruning.graph.outputs import head_outputs
    from ..pruning.tracing.hooks import evaluating, full_forward

    # Collecting the outputs may call the real forward.
    with full_forward(instance), evaluating(instance, grad=torch.is_grad_enabled()):
        return head_outputs(instance, *args, **kwargs)


def _install(module, edits):
    extended = set()

    def build_model(wrapped, instance, args, kwargs):
        cfg = args[0] if args else kwargs.get("cfg")
        prune, checkpoint = build_mode(cfg)
        model = wrapped(*args, **kwargs)
        if not structure.is_remembered(model):
            structure.remember(model, cfg)
            if checkpoint is not None:
                restructure_from(model, checkpoint)
        if prune and not hasattr(model, "model_prune"):
            with edits.late() as applied:
                if applied and type(model) not in extended:
                    extended.add(type(model))
                    edits.wrap(type(model), "forward", leave_early)
            model.model_prune = True
        if asks_the_loop(cfg):
            from ..training.loops import watch

            watch(model, cfg)
        return model

    edits.wrap_function(module, "build_model", build_model)


PATCHES = [
    Patch(
        name="remember-config",
        module="detectron2.modeling.meta_arch.build",
        watches=("build_model",),
        digests=("92332efc6ea8c4c6",),
        install=_install,
    )
]
