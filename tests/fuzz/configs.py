"""Configs that came with a checkpoint: inside it, and beside it."""

import copy
import io
import random

import torch
import yaml

import blendprune
from tests.helpers.one_stage import one_stage_cfg

#: Values that a config from a stranger may have anywhere.
STRANGE = (
    -1,
    0,
    1,
    3,
    10**4,
    10**6,
    2**31,
    2**62,
    True,
    None,
    1e300,
    float("nan"),
    "",
    "x",
    "cuda:7",
    "meta",
    "xla",
    "os:system",
    "/etc/passwd",
    "http://127.0.0.1:9/x.pth",
    "detectron2://x/y.pkl",
    "GeneralizedRCNN",
    "build_resnet_backbone",
    "SyncBN",
    "(" * 300,
    "[" * 5000,
    "9" * 5000,
    "[10**9]",
    [],
    [0],
    [[]],
    [[32.0] * 900] * 3,
    [2**31],
    ["res9"],
    {},
    {"A": {"B": 3}},
)
#: Parts of a config that a model is built from, and counted with.
_PARTS = ("MODEL", "INPUT", "DATASETS", "TEST", "PRUNER", "VERSION")

_BOMB = "a0: &a0 [x, x]\n" + "".join(
    f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]\n" for n in range(1, 12)
)
_MERGES = "a0: &a0 {x0: 1}\n" + "".join(
    f"a{n}: &a{n}\n  <<: [*a{n - 1}, *a{n - 1}, *a{n - 1}]\n  x{n}: 1\n" for n in range(1, 16)
)
#: Whole texts; ``{folder}`` is where what runs would leave a file.
TEXTS = (
    "",
    "3",
    "- 1",
    "MODEL: 3",
    "MODEL: {DEVICE: [cpu]}",
    "_BASE_: /etc/passwd",
    "_BASE_: http://127.0.0.1:9/x.yaml",
    "_BASE_: [{folder}/a.yaml, 3]",
    "_BASE_: {folder}/config.yaml",
    "MODEL: {_BASE_: /etc/passwd}",
    "MODEL: {WEIGHTS: http://127.0.0.1:9/x.pth, FINETUNE: true}",
    "MODEL: {WEIGHTS: [1], FINETUNE: true}",
    "MODEL: {META_ARCHITECTURE: os.system}",
    "MODEL: {META_ARCHITECTURE: 'torch.hub:load'}",
    "MODEL: {BACKBONE: {NAME: antigravity}}",
    "MODEL: {DEVICE: null}",
    "PRUNER: {DISTILLATION: {TEACHER: /etc/passwd}, SENSITIVITY: /etc/passwd}",
    "DATASETS: {TRAIN: [/etc/passwd], TEST: ['http://127.0.0.1:9/']}",
    "a: !!python/object/apply:os.system ['touch {folder}/ran']",
    'a: !!python/object/apply:eval [\'open("{folder}/ran", "w")\']',
    "a: !!python/object/apply:eval [[1]]",
    "a: !!python/object/apply:eval []",
    "a: !!python/object/new:os.system ['touch {folder}/ran']",
    "a: !!python/object/apply:subprocess.Popen [[touch, '{folder}/ran']]",
    "a: !!python/object/apply:builtins.open ['{folder}/ran', w]",
    "a: !!python/name:os.system",
    "a: !!python/module:antigravity",
    "a: !!python/object:blendprune.errors.StructError {{}}",
    "a: !!python/tuple [1, 2]",
    "!!python/object/apply:os.system ['touch {folder}/ran']",
    "? !!python/object/apply:os.system ['touch {folder}/ran']\n: 1",
    "a: !<tag:yaml.org,2002:python/object/apply:os.system> ['touch {folder}/ran']",
    "%TAG !p! tag:yaml.org,2002:python/\n---\na: !p!object/apply:os.system ['touch {folder}/ran']",
    "a: !mine {x: 1}",
    "a: &a [*a]",
    "a: &a {b: *a}",
    "a: *nowhere",
    "[" * 2000,
    "{a: " * 2000,
    "- " * 2000,
    "a: " + "9" * 100_000,
    "a: 0x" + "f" * 100_000,
    "a: 1" + ":59" * 10_000,
    "a: [" + "1, " * 20_000 + "1]",
    "a: " + "x" * 400_000,
    "a: !!binary " + "A" * 1000,
    "a: 2001-01-01",
    "a: !!set {b}",
    "\x00",
    "a: \x1b[31m",
    "VERSION: 1",
    "VERSION: x",
    _BOMB,
    _MERGES,
    "a: 1\n---\nb: 2",
)


def texts(folder):
    """:data:`TEXTS`, with the folder filled in."""
    return [text.replace("{folder}", folder).replace("{{}}", "{}") for text in TEXTS]


def inside(count, folder, seed=0):
    """Bytes of checkpoints whose config is changed; the first ones have each of :data:`TEXTS`.

    Args:
        count (int): how many.
        folder (str): for :func:`texts`.
        seed (int): of the changes.
    """
    from detectron2.modeling import build_model

    model, choose = build_model(one_stage_cfg()), random.Random(seed)
    content = {"model": model.state_dict(), "struct": blendprune.structure_of(model)}
    good = yaml.safe_load(content["struct"]["config"])
    good = {key: good[key] for key in _PARTS if key in good}
    places = list(_leaves(good))
    built = (
        "RESNETS",
        "RETINANET",
        "ANCHOR_GENERATOR",
        "BACKBONE",
        "PIXEL_MEAN",
        "META_ARCHITECTURE",
    )
    built += ("DEVICE", "MIN_SIZE_TEST", "MAX_SIZE_TEST", "FPN")
    likely = [path for path in places if set(path) & set(built)]
    for number in range(count):
        changed = copy.deepcopy(good)
        for _ in range(choose.choice((1, 1, 2, 4))):
            path = choose.choice(likely if choose.random() < 0.8 else places)
            _put(changed, path, choose.choice(STRANGE))
        known = texts(folder)
        text = known[number] if number < len(known) else yaml.safe_dump(changed)
        file = io.BytesIO()
        torch.save({**content, "struct": {**content["struct"], "config": text}}, file)
        yield file.getvalue()


def beside(count, folder, seed=0):
    """Texts of config files: each of :data:`TEXTS`, then pieces of them, cut and joined.

    Args:
        count (int): how many.
        folder (str): for :func:`texts`.
        seed (int): of the changes.
    """
    known, choose = texts(folder), random.Random(seed)
    yield from known[:count]
    for _ in range(count - len(known)):
        a, b = (choose.choice(known)[:2000] for _ in range(2))
        yield a[: choose.randint(0, len(a))] + "\n" + b[choose.randint(0, len(b)) :]


def _leaves(value, path=()):
    if isinstance(value, dict):
        for key in value:
            yield from _leaves(value[key], (*path, key))
    if path:
        yield path


def _put(value, path, new):
    for key in path[:-1]:
        value = value.get(key) if isinstance(value, dict) else None
    if isinstance(value, dict):
        value[path[-1]] = new
