"""The one call: a copy of a model that runs fast."""

import copy
import logging
import types
from typing import Any, TypeVar

import torch
from torch import nn

from ..errors import ConfigError, DeployError, error_line
from ..pruning.architectures import run_own_inference
from ..pruning.graph.forwards import run_stages
from ..pruning.graph.inputs import config_inputs, example_inputs_for, tiny_inputs
from ..pruning.tracing.entry import refuse_meta, refuse_nonfinite, usual_modes
from ..pruning.tracing.snapshot import keeping_state
from ..wrappers import given_model
from .folding import fold, in_channels_last, strip
from .norm_pairs import find_norm_pairs, is_foldable_norm
from .parts import PartFinder
from .precision import to_half
from .proof import FoldingProof

Model = TypeVar("Model", bound=nn.Module)

_log = logging.getLogger(__name__)

_DTYPES = (None, torch.float16, torch.bfloat16)
_MODES = ("default", "reduce-overhead", "max-autotune", "max-autotune-no-cudagraphs")


def deploy(
    model: Model,
    example_inputs: list[dict[str, Any]] | None = None,
    *,
    dtype: torch.dtype | None = None,
    channels_last: bool = True,
    compile: bool | str = False,
) -> Model:
    """Copy a model into the form that runs fastest in PyTorch.

    The copy takes and gives what the model does in inference, to 1e-4 in float32. It is in eval
    mode and takes no gradients. Batch norms are folded into the convs that they alone follow:
    BatchNorm, SyncBN, FrozenBN, the separate norms of a basic block. Others stay. The outputs of
    all layers are compared before and after the folding, on a small image. Preparation of images,
    box decoding, NMS and pasting of masks stay upstream's, in float32.

    Save the model itself: a deployed copy cannot be trained or pruned, and its checkpoint fits no
    other model.

    Args:
        model (nn.Module): a detectron2-style model in float32, dense or pruned, on any device. It
            stays unchanged.
        example_inputs (list[dict]): detectron2's format, ``"image"`` of (C, H, W). None: one random
            image as the config that the model carries has it.
        dtype (torch.dtype): ``torch.float16`` or ``torch.bfloat16`` for the tensor core, backbone
            and heads. None: float32.
        channels_last (bool): lay convs out as (N, H, W, C) in memory.
        compile (bool | str): compile the tensor core by ``torch.compile``, at its first call; a
            string is the mode, for example ``"max-autotune"``.

    Returns:
        nn.Module: the copy, of the model's class.

    Raises:
        ConfigError: an argument is invalid.
        DeployError: the model cannot be copied, or does not run as asked; folding changes its
            outputs.
        PruningError: its weights hold NaN or Inf.
    """
    model = given_model(model)
    _check(model, dtype, channels_last, compile)
    refuse_nonfinite(model)
    if example_inputs is None and config_inputs(model) is None:
        raise ConfigError(
            "the model carries no config that says which images it takes: pass example_inputs="
            '[{"image": tensor}]'
        )
    inputs = example_inputs_for(model, example_inputs)
    with usual_modes(model), torch.no_grad():
        deployed = _copy(model)
        run = _Inference(deployed, inputs)
        _fold_norms(deployed, run)
        for module in deployed.modules():
            strip(module)
        if channels_last:
            in_channels_last(deployed)
            run.must(_Inference.__call__, "in channels_last", "pass channels_last=False")
        if dtype or compile:
            find = PartFinder(deployed, run)
            core = find() if dtype is None else to_half(deployed, find, run, dtype)
            if compile:
                _compile(deployed, core, compile if isinstance(compile, str) else None)
    return deployed


class _Inference:
    """Everything that inference runs of a model, on small images if these will do.

    Args:
        model (nn.Module): the copy.
        inputs (list[dict]): detectron2's format.
    """

    def __init__(self, model, inputs):
        self.model, self.given, self.inputs = model, inputs, tiny_inputs(model, inputs)

    def __call__(self):
        """Run the stages, and the model's own inference.

        Returns:
            tuple: raw outputs, and what the model returns.
        """
        # A forward that breaks off must not upset counters of calls.
        with keeping_state(self.model):
            stages = run_stages(self.model, self.inputs, training_branches=False)
        return stages, run_own_inference(self.model, self.inputs)

    def first(self, use):
        """The first use of this object: find images that will do.

        Args:
            use (Callable): takes this object and calls it.

        Returns:
            object: what ``use`` returns.

        Raises:
            DeployError: the model's own forward fails.
        """
        if self.inputs is not self.given:
            try:
                return use(self)
            except Exception:
                self.inputs = self.given
        return self.must(use, "on the example inputs", "pass example_inputs like those it takes")

    def must(self, use, how, advice):
        """Use this object, and say how the model fails, if it does."""
        try:
            return use(self)
        except Exception as error:
            raise DeployError(
                f"{type(self.model).__name__} fails {how} ({error_line(error)}): {advice}"
            ) from error


def _check(model, dtype, channels_last, compile):
    if dtype not in _DTYPES:
        raise ConfigError(
            f"dtype is {dtype!r}: pass torch.float16, torch.bfloat16, or None for float32"
        )
    if not isinstance(channels_last, bool):
        raise ConfigError(f"channels_last is {channels_last!r}: pass True or False")
    if not isinstance(compile, bool) and compile not in _MODES:
        raise ConfigError(
            f"compile is {compile!r}: pass True, False, or a mode ({', '.join(_MODES)})"
        )
    for name, module in model.named_modules():
        if isinstance(module, torch.jit.ScriptModule):
            raise DeployError(
                f"{name or 'the model'} is a torch.jit.ScriptModule, whose layers cannot be "
                "changed: deploy the model before scripting it"
            )
    refuse_meta(model, DeployError)
    for name, p in model.named_parameters():
        if p.dtype in (torch.float16, torch.bfloat16):
            raise DeployError(
                f"{name} is {str(p.dtype).removeprefix('torch.')}: deploy the model in float32, "
                "and pass dtype= for half precision"
            )


def _copy(model):
    try:
        deployed = copy.deepcopy(model)
    except Exception as error:
        raise DeployError(
            f"{type(model).__name__} cannot be copied ({error_line(error)}): deploy it where "
            "copy.deepcopy(model) works, for example right after it is built and loaded"
        ) from error
    for module in deployed.modules():
        if getattr(module, "model_prune", False):
            module.model_prune = False
    return deployed.eval().requires_grad_(False)


def _fold_norms(deployed, run):
    pairs = run.first(lambda run: find_norm_pairs(deployed, run))
    proof = FoldingProof(deployed, pairs, run)
    for pair in pairs:
        fold(pair)
    proof.check()
    kept = sum(map(is_foldable_norm, deployed.modules()))
    _log.info("folded %d batch norms into their convs; %d stay", len(pairs), kept)


def _compile(deployed, core, mode):
    if not core.parts:
        raise DeployError(
            f"{type(deployed).__name__} has no part that maps tensors to tensors, which alone can "
            "be compiled: deploy it without compile"
        )
    for part in core.parts:
        part.wrap(lambda method: torch.compile(_with_own_code(method), mode=mode))


def _with_own_code(method):
    """A function that calls a method, with a code object of its own.

    PyTorch stops compiling a code object after eight recompilations, and runs it eagerly from then
    on. All modules of a class share the code of its methods, in other models, too.
    """

    def call(*args, **kwargs):
        return method(*args, **kwargs)

    code = call.__code__.replace()
    return types.FunctionType(code, call.__globals__, call.__name__, None, call.__closure__)
