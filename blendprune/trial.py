"""The fine-tuning config, tried before it is written: its model is built, loaded and run."""

import torch
from detectron2.utils.events import EventStorage

from . import structure
from .build import build_dense
from .checkpoint import first_line
from .errors import ConfigError
from .finetune import freezing_keys
from .pruning.graph.inputs import config_inputs, small_inputs
from .widths import restructure
from .wrappers import unwrap

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
        data (list[list[dict]] | None): batches of the training; the first one is run, too.
        build (Callable): builds a dense model from a config.

    Returns:
        list[str]: what stays frozen, for the report.

    Raises:
        ConfigError: the model of the config cannot be built or run.
    """
    model = unwrap(model)
    with _same_random_numbers(model):
        twin, frozen = _most_free(cfg, dense_cfg, structure.structure_of(model), build)
        try:
            _load(twin, model.state_dict())
            _run(twin, data)
        except Exception as error:  # whatever the user's modules raise
            raise ConfigError(
                f"the model of the fine-tuning config does not run ({first_line(error)}): check "
                "that the MODEL keys of the training config build the model that was pruned."
            ) from error
    if not frozen:
        return []
    return [
        f"fine-tuning leaves {len(frozen)} layers frozen ({frozen[0]}, …): no value of "
        f"{', '.join(freezing_keys(dense_cfg)) or 'any key'} frees them"
    ]


def _most_free(cfg, dense_cfg, struct, build):
    """Set the keys that freeze layers, such that the fewest stay frozen."""
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
        raise ConfigError(
            f"the model of the fine-tuning config cannot be built ({first_line(problem)}): check "
            "that the MODEL keys of the training config build it."
        ) from problem
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


def _run(twin, data):
    inputs = config_inputs(twin) or [{"image": data[0][0]["image"]}]
    with torch.no_grad(), EventStorage():
        twin.eval()(small_inputs(twin, inputs))
        if data:
            twin.train()(data[0])


def _same_random_numbers(model):
    """What runs afterwards must not depend on whether there was a trial."""
    devices = {p.device.index for p in model.parameters() if p.device.type == "cuda"}
    return torch.random.fork_rng(devices)
