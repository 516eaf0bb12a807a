"""The model that targets are fractions of: at MODEL.WEIGHTS, dense or pruned already."""

from ..checkpoint.build import build_dense
from ..pruning.cost.count import count_flops, count_params
from ..pruning.graph.inputs import config_inputs
from ..pruning.tracing.hooks import keeping_random_state
from ..structure import is_pruned, structure_of


def reference_of(cfg, model, build=build_dense):
    """Describe the model that is about to be pruned, for the report.

    Args:
        cfg (CfgNode): its config.
        model (nn.Module): with the weights of MODEL.WEIGHTS, before it is pruned.
        build (Callable): builds a dense model from a config.

    Returns:
        dict: ``weights`` (MODEL.WEIGHTS), and the model's ``flops`` and ``params`` as fractions of
        those of the dense model of its config: 1.0 unless it was pruned before. None: the dense
        model cannot be built from the config.
    """
    fractions = {"flops": 1.0, "params": 1.0}
    inputs = config_inputs(model)
    if is_pruned(structure_of(model)) and inputs is not None:
        fractions = _fractions(cfg, model, inputs, build)
    return {"weights": cfg.MODEL.WEIGHTS, **fractions}


def _fractions(cfg, model, inputs, build):
    cfg = cfg.clone()
    cfg.defrost()
    cfg.MODEL.PRUNE = cfg.MODEL.FINETUNE = False
    try:
        with keeping_random_state(model):
            dense = build(cfg)
            now, before = (sum(count_flops(each, inputs).values()) for each in (model, dense))
    except Exception:  # a script may build its model without the config
        return {"flops": None, "params": None}
    return {"flops": now / before, "params": count_params(model) / count_params(dense)}


def was_pruned(reference):
    """Whether the model that :func:`reference_of` describes was pruned before."""
    return reference["params"] != 1


def reference_words(reference):
    """Say what :func:`reference_of` found.

    Args:
        reference (dict): from :func:`reference_of`.

    Returns:
        str: ``"the model at tuned.pth (already pruned: 0.480 of the dense one's FLOPs)"``.
    """
    words = f"the model at {reference['weights']}"
    if not was_pruned(reference):
        return words
    if reference["flops"] is None:
        return f"{words} (already pruned)"
    return f"{words} (already pruned: {reference['flops']:.3f} of the dense one's FLOPs)"
