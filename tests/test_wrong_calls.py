"""Wrong calls in Python: each gets one sentence, and leaves model and files as they were.

A sentence says what was found, what is wanted, and what to do next. ``…`` stands for any text.
"""

import contextlib
import re

import pytest
import torch
from detectron2.config import get_cfg
from torch import nn

import blendprune
from blendprune.config import add_prune_config
from blendprune.errors import BlendpruneError
from blendprune.training import Distillation, GradualPruning, GroupSparsity, hooks_from_config
from tests.helpers.chain import Chain, chain_inputs
from tests.helpers.sentences import assert_sentence, contents
from tests.helpers.state import remember, unchanged

FRACTION = "must be a number between 0 and 1, got {}: write 0.5 for half"
WHOLE = "must be a whole number of at least 1, got {}: …"
TARGETS = "exactly one of pruning_ratio, max_flops, max_params, max_activations, max_memory, "
TARGETS += "max_latency is "
KNOWN = "; known are activation, bn_scale, fisher, fpgm, …, taylor, wanda"
NAMES = "; use names of model.named_modules(), which blendprune.plan shows"
TENSOR = 'example_inputs must be a list of dicts like {"image": tensor}'
NO_MODEL = "the model is a int: pass the nn.Module, for example from detectron2's build_model(…"
IMAGES = "data holds no images: pass batches as detectron2's loaders give them"


class Broken(Chain):
    """Its forward fails."""

    def forward(self, batched_inputs):
        raise ValueError("boom")


class Detached(Chain):
    """Its outputs have no history."""

    def forward(self, batched_inputs):
        return super().forward(batched_inputs).detach()


class NoLosses(Chain):
    """Gives no dict in training."""

    def forward(self, batched_inputs):
        found = super().forward(batched_inputs)
        return found["loss"] if self.training else found


class Undefined(Chain):
    """Its loss is NaN."""

    def forward(self, batched_inputs):
        found = super().forward(batched_inputs)
        return {"loss": found["loss"] / 0} if self.training else found


def _images(*shape):
    return [{"image": torch.zeros(shape)}]


# Arguments of prune(), beside those that are right.
PRUNE = [
    ({"max_flops": None}, TARGETS + "wanted, got none: set one to a number between 0 and 1"),
    ({"max_params": 0.5}, TARGETS + "wanted, got max_flops, max_params: set one to a number …"),
    ({"max_flops": 0}, f"max_flops {FRACTION.format(0)}"),
    ({"max_flops": 1}, f"max_flops {FRACTION.format(1)}"),
    ({"max_flops": 50}, f"max_flops {FRACTION.format(50)}"),
    ({"max_flops": "0.5"}, f"max_flops {FRACTION.format(repr('0.5'))}"),
    ({"max_flops": True}, f"max_flops {FRACTION.format(True)}"),
    (
        {"max_flops": None, "max_latency": -1},
        "max_latency must be a fraction below 1, or from 1 on a number of milliseconds, got -1: …",
    ),
    (
        {"max_flops": None, "max_memory": 0},
        "max_memory must be a fraction below 1, or from 1 on a number of megabytes, got 0: write …",
    ),
    (
        {"max_flops": None, "max_memory": 5},
        "max_memory 5 MB is met already: …0.00486 MB; ask for …",
    ),
    (
        {"max_flops": None, "max_memory": 0.01},
        "max_memory 0.01 is out of reach: … go down to … of the dense model's memory; ask for …",
    ),
    (
        {"max_flops": None, "max_memory": 0.5, "levels": [5]},
        "level 5 is an absolute number, but max_memory 0.5 is a fraction: give levels of the …",
    ),
    ({"max_flops": None, "max_latency": 1e5}, "max_latency 100000 ms is met already: …; ask …"),
    (
        {"max_flops": None, "max_latency": 1e5, "levels": [0.9]},
        "level 0.9 is a fraction, but max_latency 100000 ms is an absolute number: give …",
    ),
    ({"max_flops": torch.tensor(0.5)}, f"max_flops {FRACTION.format('tensor(0.5000)')}"),
    (
        {"max_flops": None, "pruning_ratio": 0.95},
        "pruning_ratio 0.95 is above max_pruning_ratio 0.9; raise the latter",
    ),
    ({"max_flops": 0.001}, "max_flops 0.001 is out of reach: … go down to … of …; ask for that, …"),
    ({"levels": 0.7}, "levels is 0.7: pass a list of numbers, for example [0.75]"),
    ({"levels": "0.7"}, "levels is '0.7': pass a list of numbers, for example [0.75]"),
    ({"levels": ["0.7"]}, f"a level {FRACTION.format(repr('0.7'))}"),
    ({"levels": [0.4]}, "level 0.4 is not on the way to max_flops 0.5: …, give levels before it"),
    (
        {"max_flops": None, "pruning_ratio": 0.5, "levels": [0.6]},
        "level 0.6 is not on the way to pruning_ratio 0.5: …, give levels before it",
    ),
    ({"importance": None}, f"importance None is not known{KNOWN}"),
    ({"importance": 5}, f"importance 5 is not known{KNOWN}"),
    ({"importance": "tailor"}, f"importance 'tailor' is not known (did you mean 'taylor'?){KNOWN}"),
    ({"importance": "obs"}, "importance 'obs' is computed from data: pass data=… or use importan…"),
    ({"importance": "bn_scale"}, "importance 'bn_scale' found no BatchNorm on …: name them in …"),
    ({"importance": lambda group: None}, "the importance gave no finite score for each channel …"),
    ({"importance": lambda group: [1.0]}, "the importance gave no finite score for each channel …"),
    (
        {"normalize": "flop"},
        "normalize 'flop' is not known…known are flops, params, activations, …",
    ),
    ({"normalize": 3}, "normalize 3 is not known…known are flops, params, activations, or None"),
    ({"reconstruct": "no"}, "reconstruct must be True or False, got 'no': set it to one of them"),
    ({"global_pruning": None}, "global_pruning must be True or False, got None: set it to one …"),
    ({"isomorphic": 1}, "isomorphic must be True or False, got 1: set it to one of them"),
    ({"round_to": -8}, f"round_to {WHOLE.format(-8)}"),
    ({"round_to": 2.0}, f"round_to {WHOLE.format(2.0)}"),
    ({"rounds": 0.5}, f"rounds {WHOLE.format(0.5)}"),
    ({"rounds": "2"}, f"rounds {WHOLE.format(repr('2'))}"),
    ({"max_pruning_ratio": 2}, f"max_pruning_ratio {FRACTION.format(2)}"),
    ({"max_pruning_ratio": None}, f"max_pruning_ratio {FRACTION.format(None)}"),
    ({"ignored_layers": 5}, "ignored_layers is 5: pass a list of modules, names or patterns"),
    ({"ignored_layers": [5]}, f"ignored_layers has 5, which is no module of Chain{NAMES}"),
    (
        {"ignored_layers": ["frist"]},
        f"ignored_layers has 'frist', which is no module of Chain (did you mean 'first'?){NAMES}",
    ),
    (
        {"ignored_layers": [nn.Linear(1, 1)]},
        f"ignored_layers has Linear, which is no module of Chain{NAMES}",
    ),
    ({"ignored_layers": ["*"]}, "Chain has no group of channels that may be pruned: … lists all)"),
    ({"pruning_ratio_dict": 5}, "pruning_ratio_dict is 5: pass a dict such as {'backbone.*': 0.3}"),
    ({"pruning_ratio_dict": "first"}, "pruning_ratio_dict is 'first': pass a dict such as …"),
    ({"pruning_ratio_dict": ["a"]}, "pruning_ratio_dict has 'a': write [pattern, ratio], for …"),
    ({"pruning_ratio_dict": {"first": 1}}, "… and below 1 for 'first', got 1: write 0.5 for half"),
    ({"pruning_ratio_dict": {"first": "x"}}, "… for 'first', got 'x': write 0.5 for half"),
    ({"pruning_ratio_dict": {"first": 0.95}}, "…0.95 for 'first', above max_pruning_ratio 0.9; …"),
    (
        {"pruning_ratio_dict": {"frist": 0.5}},
        "pruning_ratio_dict has 'frist', which is no module of Chain (did you mean 'first'?); …",
    ),
    (
        {"pruning_ratio_dict": {"predictor": 0.5}},
        "pruning_ratio_dict has 'predictor': 0.5, but no layer it names can lose channels: "
        "prediction layer; leave the entry out",
    ),
    ({"progress": 5}, "progress is 5, which cannot be called: pass a function or None"),
    ({"on_level": "x"}, "on_level is 'x', which cannot be called: pass a function or None"),
    ({"on_round": "x"}, "on_round is 'x', which cannot be called: pass a function or None"),
    ({"sensitivity": "no.json"}, "cannot read 'no.json' as a measured sensitivity (…): name the …"),
    ({"sensitivity": "file"}, "cannot read 'file' as a measured sensitivity (…): name the file …"),
    ({"sensitivity": 5}, "sensitivity is a int: pass the path of a measurement, or what …"),
    (
        {"sensitivity": "x", "isomorphic": True},
        "sensitivity weighs all groups …: leave global_pruning True and isomorphic False",
    ),
    ({"example_inputs": 5}, TENSOR),
    ({"example_inputs": []}, TENSOR),
    ({"example_inputs": [torch.zeros(3, 8, 8)]}, TENSOR),
    ({"example_inputs": None}, "the model carries no config that says …: pass example_inputs=…"),
    ({"example_inputs": [{"image": 3}]}, 'example_inputs has a int as "image": pass a tensor …'),
    (
        {"example_inputs": _images(8, 8)},
        'example_inputs has an "image" of shape (8, 8): pass one …',
    ),
    (
        {"example_inputs": _images(4, 8, 8)},
        "the forward of Chain fails on the example inputs (RuntimeError: …): pass example_inputs …",
    ),
    ({"data": 5}, "data is a int: pass batches, or a loader as detectron2 builds them"),
    ({"data": "folder"}, "data is a str: pass batches, or a loader as detectron2 builds them"),
    ({"data": []}, IMAGES),
    ({"data": [[]]}, IMAGES),
    ({"data": [[torch.zeros(3, 8, 8)]]}, "data must give lists of dicts …, but gave a Tensor: …"),
    (
        {"data": [_images(2, 3, 8, 8)]},
        'data has an "image" of shape (2, 3, 8, 8): pass one image …',
    ),
    ({"data": [[{"image": torch.full((3, 8, 8), torch.nan)}]]}, 'data has an "image" with NaN …'),
]

# Models that cannot be pruned.
MODELS = [
    (lambda: None, "the model is a NoneType: pass the nn.Module, for example from …"),
    (lambda: "model.pth", "the model is a str: pass the nn.Module, for example from …"),
    (nn.Identity, "Identity has no parameters, so nothing can be pruned: pass the detector itself"),
    (Broken, "the forward of Broken fails on the example inputs (ValueError: boom): pass …"),
    (Detached, "…"),
    (lambda: Chain().half(), "first.weight is float16: prune in float32 (model.float()), and go …"),
    (lambda: Chain().to("meta"), "first.weight is on the meta device …: move the model with …"),
    (NoLosses, "NoLosses gave no dict of losses in training mode, …; use importance='magnitude' …"),
    (Undefined, "the losses on the calibration data are not finite (loss): check the weights …"),
]

SENSITIVITY = [
    ({"data": None}, "sensitivity is measured on data: pass data=… (of a training loader)"),
    ({"ratios": 0.5}, "ratios must be ascending numbers between 0 and 1, got 0.5: pass a list …"),
    (
        {"ratios": []},
        "ratios must be ascending numbers between 0 and 1, got []: pass a list such …",
    ),
    (
        {"ratios": ["a"]},
        "ratios must be ascending numbers between 0 and 1, got ['a']: pass a list …",
    ),
    ({"ratios": [0.5, 0.3]}, "ratios must be ascending …, got [0.5, 0.3]: pass a list such as …"),
    (
        {"ratios": [1.0]},
        "ratios must be ascending numbers between 0 and 1, got [1.0]: pass a list …",
    ),
    ({"importance": "x"}, f"importance 'x' is not known{KNOWN}"),
    ({"path": 5}, "cannot write a sensitivity to 5, which is not a str: name a file such as …"),
    (
        {"path": "folder"},
        "cannot write a sensitivity to 'folder', which is a folder: name a file …",
    ),
    (
        {"path": "file/x"},
        "cannot write a sensitivity to 'file/x', which is below the file …: name …",
    ),
    ({"path": "file"}, "cannot read 'file' as a measured sensitivity (…): name the file that …"),
    ({"progress": 1}, "progress is 1, which cannot be called: pass a function or None"),
]

PLAN = [
    ({"round_to": "x"}, f"round_to {WHOLE.format(repr('x'))}"),
    ({"max_pruning_ratio": 1}, f"max_pruning_ratio {FRACTION.format(1)}"),
    ({"ignored_layers": ["zzz"]}, f"ignored_layers has 'zzz', which is no module of Chain{NAMES}"),
    ({"pruning_ratio_dict": {"first": -1}}, "pruning_ratio_dict wants …, got -1: write 0.5 for …"),
    ({"example_inputs": 3}, TENSOR),
]

GRADUAL = [
    ({"max_flops": None}, "exactly one of …, max_memory is wanted, got none: set one to …"),
    ({"max_flops": 1.5}, f"max_flops {FRACTION.format(1.5)}"),
    ({"start": 5, "end": 1}, "gradual pruning wants 0 < start <= end …, got start 5, end 1, …"),
    (
        {"start": 0},
        "gradual pruning wants 0 < start <= end …, got start 0, end 5, period 1: count …",
    ),
    ({"start": "1"}, "gradual pruning wants 0 < start <= end …, got start '1', end 5, …"),
    ({"end": 5.5}, "gradual pruning wants 0 < start <= end …, got start 1, end 5.5, …"),
    ({"period": 0}, "gradual pruning wants … period of at least 1, got …, period 0: count in …"),
    ({"images": 0}, f"images {WHOLE.format(0)}"),
    ({"images": "x"}, f"images {WHOLE.format(repr('x'))}"),
    ({"importance": "x"}, f"importance 'x' is not known{KNOWN}"),
]

SPARSITY = [
    ({"strength": 0}, "group sparsity wants strength > 0, …, got 0, 4.0 and 100: set them so"),
    (
        {"strength": -1.0},
        "group sparsity wants strength > 0, …, got -1.0, 4.0 and 100: set them so",
    ),
    ({"strength": "x"}, "group sparsity wants strength > 0, …, got 'x', 4.0 and 100: set them so"),
    ({"alpha": -1}, "group sparsity wants …, got 0.1, -1 and 100: set them so"),
    ({"period": 0}, "group sparsity wants …, got 0.1, 4.0 and 0: set them so"),
    ({"period": 1.5}, "group sparsity wants …, got 0.1, 4.0 and 1.5: set them so"),
]

DISTILLATION = [
    ({"teacher": None}, "the teacher is a NoneType: pass the dense model, or the path of its …"),
    ({"teacher": "no.pth"}, "cannot open the model file 'no.pth' (…): check …"),
    (
        {"feature_weight": -1},
        "distillation wants weights of at least 0, …, got feature_weight -1 …",
    ),
    ({"feature_weight": "x"}, "distillation wants weights …, got feature_weight 'x' and head_w…"),
    ({"feature_weight": 0, "head_weight": 0}, "distillation wants weights …, and one above, got …"),
]

# Keys of the PRUNER node that hooks read.
HOOKS = [
    ({"SPARSITY.STRENGTH": -1.0}, "group sparsity wants strength > 0, …, got -1.0, 4.0 and 100: …"),
    ({"GRADUAL.END": 5}, "none of PRUNER.PRUNING_RATIO, … set: set exactly one, to a fraction …"),
    ({"GRADUAL.END": 5, "MAX_LATENCY": 0.5}, "PRUNER.GRADUAL takes only …: set PRUNER.MAX_FLOPS …"),
    ({"GRADUAL.END": 5, "GRADUAL.START": 9, "MAX_FLOPS": 0.5}, "gradual pruning wants 0 < start …"),
    ({"GRADUAL.END": 5, "MAX_FLOPS": 1.5}, f"max_flops {FRACTION.format(1.5)}"),
    (
        {"GRADUAL.END": 5, "MAX_FLOPS": 0.5, "CALIBRATION_IMAGES": 0},
        "PRUNER.CALIBRATION_IMAGES must be a whole number of at least 1, got 0: …",
    ),
    (
        {"GRADUAL.END": 5, "MAX_FLOPS": 0.5, "SENSITIVITY": "x.json"},
        "PRUNER.SENSITIVITY is valid for …, but …: leave one of them out.",
    ),
    ({"DISTILLATION.TEACHER": "no.pth"}, "cannot open the model file 'no.pth' …"),
]

STRUCT = blendprune.structure_of(Chain(8, 8))
OTHERS = {
    "register_architecture of a number": (
        lambda: blendprune.register_architecture(5),
        "register_architecture got 5: pass a subclass of blendprune.Architecture.",
    ),
    "register_architecture of a model": (
        lambda: blendprune.register_architecture(Chain),
        "register_architecture got …Chain…: pass a subclass of blendprune.Architecture.",
    ),
    "register_architecture of what claims every model": (
        lambda: blendprune.register_architecture(type("All", (blendprune.Architecture,), {})),
        "All has no matches() of its own and would claim every model: write a classmethod …",
    ),
    "register_channel_wise of a number": (
        lambda: blendprune.register_channel_wise(5),
        "register_channel_wise got 5: pass a torch.autograd.Function or the name of an autograd …",
    ),
    "register_channel_wise of nothing": (
        lambda: blendprune.register_channel_wise(""),
        "register_channel_wise got '': pass a torch.autograd.Function or the name of an autograd …",
    ),
    "register_flops without a function": (
        lambda: blendprune.register_flops("aten::foo", 5),
        "register_flops got 5: pass a function as the formula.",
    ),
    "register_flops of nothing": (
        lambda: blendprune.register_flops("", len),
        "register_flops got '': pass a subclass of nn.Module or the name of an operator, for …",
    ),
    "apply with another policy": (
        lambda: blendprune.apply("ignore"),
        'on_drift is \'ignore\': pass "raise" or "warn".',
    ),
    "applied with another policy": (
        lambda: blendprune.applied(5).__enter__(),
        'on_drift is 5: pass "raise" or "warn".',
    ),
    "load of a missing file": (
        lambda: blendprune.load("no.pth"),
        "cannot open the model file 'no.pth' (…): check …",
    ),
    "load of a folder": (
        lambda: blendprune.load("folder"),
        "cannot open the model file 'folder' (…): check …",
    ),
    "load of None": (
        lambda: blendprune.load(None),
        "cannot open the model file None (…): check …",
    ),
    "load of a text": (
        lambda: blendprune.load("file"),
        "cannot read 'file' as a checkpoint (…): …",
    ),
    "load to another device": (
        lambda: blendprune.load("list.pth", device="gpu"),
        "device is 'gpu', which cannot be used here (…): pass device='cpu'.",
    ),
    "load into no model": (lambda: blendprune.load("list.pth", model=5), NO_MODEL),
    "structure_of a number": (lambda: blendprune.structure_of(5), NO_MODEL),
    "restructure of a number": (lambda: blendprune.restructure(5, STRUCT), NO_MODEL),
    "prunable of a number": (lambda: blendprune.prunable(5).__enter__(), NO_MODEL),
    "add_prune_config to a dict": (
        lambda: blendprune.add_prune_config({}),
        "add_prune_config got a dict without a MODEL node: pass what detectron2's get_cfg() …",
    ),
    "load of a list": (
        lambda: blendprune.load("list.pth"),
        "'list.pth' contains a list, not a dict: name a checkpoint that detectron2 saved.",
    ),
    "restructure by None": (
        lambda: blendprune.restructure(Chain(8, 8), None),
        'this checkpoint has no blendprune "struct": …',
    ),
    "restructure by another version": (
        lambda: blendprune.restructure(Chain(8, 8), STRUCT | {"version": 9}),
        'the "struct" has version 9, this blendprune reads …: install the release …',
    ),
    "restructure by another model": (
        lambda: blendprune.restructure(Chain(8, 8), STRUCT | {"meta_architecture": "Net"}),
        'the "struct" is of a Net, but the model is a Chain: …',
    ),
    "restructure by missing modules": (
        lambda: blendprune.restructure(Chain(8, 8), STRUCT | {"modules": {}}),
        "the model has a module '…' that the \"struct\" lacks: …",
    ),
    "restructure to larger widths": (
        lambda: blendprune.restructure(Chain(4, 4), STRUCT),
        'the "struct" has first.…: build the model from the config …',
    ),
}


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    """The working directory, with files that are none of ours."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "inside").write_text("kept")
    (tmp_path / "file").write_text("hello")
    torch.save([1], tmp_path / "list.pth")
    return tmp_path


@contextlib.contextmanager
def refused(sentence, folder, model=None):
    """A call that is refused and changes nothing."""
    files, before = contents(folder), remember(model) if isinstance(model, nn.Module) else None
    with pytest.raises(BlendpruneError) as raised:
        yield
    assert_sentence(str(raised.value), sentence)
    assert contents(folder) == files
    assert before is None or model.state_dict().keys() == before[0].keys()
    # Numbers that are not there, or not equal to themselves, cannot be compared.
    comparable = before is not None and not any(p.is_meta for p in model.parameters())
    assert not comparable or unchanged(model, before)


def _shown(value):
    # Without addresses: every process has to collect the same names.
    return re.sub(r" at 0x\w+", "", repr(value))[:40]


def _cases(table):
    shown = ["-".join(f"{name}={_shown(value)}" for name, value in how.items()) for how, _ in table]
    return pytest.mark.parametrize("how, sentence", table, ids=[name[:60] for name in shown])


@_cases(PRUNE)
def test_prune(folder, how, sentence):
    right = {"example_inputs": chain_inputs(), "max_flops": 0.5, "importance": "magnitude"}
    model = Chain(8, 8)
    with refused(sentence, folder, model):
        blendprune.prune(model, **(right | how))


@pytest.mark.parametrize("make, sentence", MODELS)
def test_models(folder, make, sentence):
    model = make()
    with refused(sentence, folder, model):
        blendprune.prune(model, chain_inputs(), max_flops=0.5, data=[chain_inputs()])


@_cases(SENSITIVITY)
def test_measure_sensitivity(folder, how, sentence):
    model = Chain(8, 8)
    with refused(sentence, folder, model):
        blendprune.measure_sensitivity(model, chain_inputs(), **({"data": [chain_inputs()]} | how))


@_cases(PLAN)
def test_plan(folder, how, sentence):
    model = Chain(8, 8)
    with refused(sentence, folder, model):
        blendprune.plan(model, **({"example_inputs": chain_inputs()} | how))


@_cases(GRADUAL)
def test_gradual_pruning(folder, how, sentence):
    with refused(sentence, folder):
        GradualPruning(**({"start": 1, "end": 5, "period": 1, "max_flops": 0.5} | how))


@_cases(SPARSITY)
def test_group_sparsity(folder, how, sentence):
    with refused(sentence, folder):
        GroupSparsity(**({"strength": 0.1} | how))


@_cases(DISTILLATION)
def test_distillation(folder, how, sentence):
    with refused(sentence, folder):
        Distillation(**({"teacher": Chain(8, 8)} | how))


@_cases(HOOKS)
def test_keys_of_hooks(folder, how, sentence):
    cfg = get_cfg()
    add_prune_config(cfg)
    cfg.MODEL.DEVICE = "cpu"
    cfg.merge_from_list([x for key, value in how.items() for x in (f"PRUNER.{key}", value)])
    with refused(sentence, folder):
        hooks_from_config(cfg)


@pytest.mark.parametrize("name", OTHERS)
def test_other_calls(folder, name):
    call, sentence = OTHERS[name]
    with refused(sentence, folder):
        call()


def test_there_are_many():
    tables = (PRUNE, MODELS, SENSITIVITY, PLAN, GRADUAL, SPARSITY, DISTILLATION, HOOKS, OTHERS)
    assert sum(map(len, tables)) > 120
