"""The fine-tuning config, tried before it is written: its model is built, loaded and run."""

import copy

import torch
from detectron2.utils.events import EventStorage

from .. import structure
from ..checkpoint.build import build_dense
from ..errors import ConfigError, first_line
from ..pruning.graph.inputs import config_inputs, labelled_batch, small_inputs
from ..pruning.tracing.hooks import keeping_random_state
from ..structure.widths import restructure
from ..wrappers import plain_state, unwrap
from .finetune import freezing_keys

# Values of FREEZE_AT and its like, the first that frees all. For some backbones 0 still freezes
# norms, or is not allowed.
_NOTHING = (0, -1)


def try_config(cfg, dense_cfg, model, data=None, build=build_dense):
    """Build the model of a fine-tuning config, load the pruned weights, and run it.

    Nothing should stay frozen that pruning changes. Which keys achieve that depends on the
    backbone: AdelaiDet's DLA wants FREEZE_AT -1, VoVNet freezes its norms at 0. Therefore the built
    model decides. Keys that cannot be changed keep the user's value.

    Args:
        cfg (CfgNode): from :func:`finetune_config`; its keys that freeze layers are set in place.
        dense_cfg (CfgNode): of the dense training, with the user's values of these keys.
        model (nn.Module): the pruned model, or the dense one for a first trial.
        data (list[list[dict]] | None): batches of the training; two images are run, too, with norms
            in training mode.
        build (Callable): builds the dense model of a config, as the training script does.

    Returns:
        list[str]: what stays frozen, and what could not be tried because the model that was pruned
        cannot do it, either.

    Raises:
        ConfigError: the model of the config cannot be built or run.
    """
    model = unwrap(model)
    struct = structure.structure_of(model)
    with keeping_random_state(model):
        found = _most_free(cfg, dense_cfg, struct, build)
        if isinstance(found, Exception):
            try:
                _build(dense_cfg, struct, build)
            except Exception:
                return [
                    "the fine-tuning config was not tried: detectron2's build_model does not "
                    f"build this model from the script's config ({first_line(found)}), and "
                    "MODEL.FINETUNE needs that"
                ]
            raise ConfigError(
                f"the model of the fine-tuning config cannot be built ({first_line(found)}): check "
                "that the MODEL keys of the training config build it."
            ) from found
        twin, frozen = found
        notes = _run(twin, model, data)
    if frozen:
        keys = ", ".join(freezing_keys(dense_cfg)) or "any key"
        notes.append(
            f"fine-tuning leaves {len(frozen)} layers frozen ({frozen[0]}, …): no value of {keys} "
            "frees them"
        )
    return notes


def _most_free(cfg, dense_cfg, struct, build):
    """Set the keys that freeze layers, such that the fewest stay frozen.

    Returns:
        tuple[nn.Module, list[str]] | Exception: the built model and names of its frozen layers, or
        why none can be built.
    """
    keys = freezing_keys(dense_cfg)
    norms = [key for key, value in keys.items() if value == "FrozenBN"]
    stages = [key for key in keys if key not in norms]
    best, problem = None, None

    def consider(values):
        nonlocal best, problem
        tried = {**keys, **values}
        try:
            twin, frozen = _build(_set(cfg.clone(), tried), struct, build)
        except Exception as error:  # backbones assert what they cannot do
            problem = error
            return
        if best is None or len(frozen) < len(best[1]):
            best = twin, frozen, tried

    choices = [dict.fromkeys(stages, value) for value in _NOTHING]
    for choice in (*choices, {}):  # {}: as the user has it
        consider({**dict.fromkeys(norms, "BN"), **choice})
        if best is not None and not best[1]:
            break
    if best is None:  # not all of the norms can be changed
        consider({})
        changes = [{key: "BN"} for key in norms] + choices
        for change in changes if best else ():
            consider({**best[2], **change})
    if best is None:
        return problem
    twin, frozen, tried = best
    _set(cfg, tried)
    return twin, frozen


def _set(cfg, values):
    for name, value in values.items():
        *nodes, key = name.split(".")
        node = cfg
        for each in nodes:
            node = node.get(each, {})
        if key in node:  # keys of other models are dropped
            node[key] = value
    return cfg


def _build(cfg, struct, build):
    cfg = cfg.clone()
    cfg.defrost()
    # The file at MODEL.WEIGHTS, with the widths, is not there yet.
    cfg.MODEL.PRUNE = cfg.MODEL.FINETUNE = False
    twin = build(cfg)
    dense = {name: p.shape for name, p in twin.named_parameters()}
    restructure(twin, struct)
    names = {
        name
        for name, module in twin.named_modules()
        if type(module).__name__.startswith("FrozenBatchNorm")
    }
    names |= {
        name.rpartition(".")[0]
        for name, p in twin.named_parameters()
        if not p.requires_grad and p.shape != dense[name]
    }
    return twin, sorted(names)


def _load(twin, weights):
    # FrozenBN has no counter; BN starts with its own.
    missing, unexpected = twin.load_state_dict(weights, strict=False)
    lacking = [key for key in missing if not key.endswith("num_batches_tracked")]
    if lacking or unexpected:
        raise KeyError(f"{len(lacking + unexpected)} weights differ: {(lacking + unexpected)[0]}")


def _run(twin, model, data):
    """Run the built model with the weights of the pruned one; returns notes."""
    runs, inputs = {}, config_inputs(model)
    if inputs:
        runs["inference"] = lambda each: _infer(each, small_inputs(each, inputs))
    if data:
        runs["training"] = lambda each: _train(each, labelled_batch(data))
    notes = []
    try:
        _load(twin, plain_state(model))
        for name, run in runs.items():
            try:
                run(twin)
            except Exception as error:
                if not _fails(run, copy.deepcopy(model)):
                    raise
                notes.append(
                    f"{name} with the fine-tuning config was not tried: the model that was pruned "
                    f"fails, too ({first_line(error)})"
                )
    except Exception as error:  # whatever the user's modules raise
        raise ConfigError(
            f"the model of the fine-tuning config does not run ({first_line(error)}): check that "
            "the MODEL keys of the training config build the model that was pruned."
        ) from error
    return notes


def _infer(model, inputs):
    with torch.no_grad():
        model.eval()(inputs)


def _train(model, batch):
    with torch.no_grad(), EventStorage():
        model.train()(batch)


def _fails(run, model):
    try:
        run(model)
    except Exception:
        return True
    return False
