"""Random orders of import, apply, revert, build, save and load on four threads.

::

    make stress                                # 1 000 orders
    python -m tests.stress --orders 50 --seed 3
    TMPDIR=/dev/shm python -m tests.stress     # saves wait for a busy disk: a save is on it

In an order, each thread takes random steps. Every model computes what it computes without threads.
Every file holds the weights that were saved, and a ``"struct"`` of this model or none. At the end
of an order, ``vars()`` of each class and module that the overlay touches is what it was, by
identity, and a module that has imported a name meanwhile has upstream's::

    1000 orders, 12000 steps on 4 threads: apply 2013, …, save 1990 (995 with a structure)
    0 problems

The exit code is 1 if anything is otherwise.
"""

import argparse
import functools
import importlib
import logging
import os
import random
import sys
import tempfile
import threading
import traceback
from collections import Counter
from pathlib import Path

import torch
import yaml

import blendprune
from blendprune import overlay
from blendprune.progress import Counted, LoggedProgress
from tests.helpers.one_block import one_block_cfg

THREADS, STEPS = 4, 3
_SCRIPT = """
from detectron2.checkpoint import DetectionCheckpointer
from detectron2.modeling import build_model
from detectron2.modeling.backbone.resnet import BasicBlock
"""


class Stress:
    """What the threads share: a folder, a file, and what its model computes.

    Args:
        folder (str): for the files.

    Attributes:
        taken (list[str]): steps that ended without an error.
        structs (list[str]): saves whose file has a structure, which was compared.
        problems (list[str]): what was otherwise.
    """

    def __init__(self, folder):
        from detectron2.checkpoint import DetectionCheckpointer

        self.folder, self.problems, self.scripts = folder, [], []
        self.taken, self.structs = [], []  # appending is atomic, adding to a counter is not
        self.invalidating = threading.Lock()
        overlay.import_targets()
        with blendprune.applied():
            from detectron2.modeling import build_model

            self.touched = list(
                {id(place.owner): place.owner for p in overlay.PATCHES for place in p.edits._places}
                .values()
            )  # fmt: skip
            self.cfg = one_block_cfg()
            torch.manual_seed(0)
            model = build_model(self.cfg).eval()
            blendprune.prune(model, max_flops=0.6, importance="magnitude", rounds=1)
            self.weights = {key: value.clone() for key, value in model.state_dict().items()}
            self.struct = blendprune.structure_of(model)
            DetectionCheckpointer(model, folder).save("shared")
        self.path = os.path.join(folder, "shared.pth")
        self.image = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(1))
        self.expected = self.outputs(model)

    def outputs(self, model):
        """What the backbone computes of one image."""
        with torch.no_grad():
            return model.backbone(self.image)["res2"]

    def check(self, step, model):
        """Compare a model with the first one."""
        if not torch.equal(self.outputs(model.eval()), self.expected):
            self.problems.append(f"{step}: the outputs differ")
        if list(model.state_dict()) != list(self.weights):
            self.problems.append(f"{step}: the names of the weights differ")

    def order(self, seed):
        """Let the threads take their steps, then compare what the overlay touches."""
        before = self.snapshot()
        threads = [
            threading.Thread(target=self.work, args=(f"{seed}_{number}",))
            for number in range(THREADS)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        blendprune.revert()
        for name, attributes in self.snapshot().items():
            if attributes != before[name]:
                self.problems.append(f"order {seed}: {name} is not what it was")
        self.check_scripts(seed)

    def work(self, name):
        """Take random steps, one thread's."""
        choose = random.Random(name).choice
        for number in range(STEPS):
            step = choose(list(ACTIONS))
            try:
                ACTIONS[step](self, f"{name}_{number}")
                self.taken.append(step)
            except Exception as error:
                where = "".join(traceback.format_tb(error.__traceback__)[-3:])
                self.problems.append(f"{step} {name}: {error!r:.300}\n{where}")

    def snapshot(self):
        """Identities of all attributes of what the overlay touches."""
        return {
            f"{getattr(owner, '__module__', '')} {owner.__name__}": {
                name: id(value) for name, value in vars(owner).items()
            }
            for owner in self.touched
        }

    def check_scripts(self, seed):
        """Modules that have imported upstream's names have upstream's objects."""
        import detectron2.modeling

        for script in self.scripts:
            if script.build_model is not detectron2.modeling.build_model:
                self.problems.append(f"order {seed}: an imported build_model is not upstream's")
            del sys.modules[script.__name__]
        self.scripts.clear()


def _import(stress, name):
    module = f"stress_script_{name}"
    Path(stress.folder, f"{module}.py").write_text(_SCRIPT)
    with stress.invalidating:  # CPython's own loop over the finders is not for two threads
        importlib.invalidate_caches()
    stress.scripts.append(importlib.import_module(module))


def _build(stress, name):
    from detectron2.modeling import build_model

    model = build_model(stress.cfg)
    blendprune.restructure(model, stress.struct)
    model.load_state_dict(stress.weights)
    stress.check("build", model)


def _save(stress, name):
    from detectron2.checkpoint import DetectionCheckpointer

    model = blendprune.load(stress.path)
    with tempfile.TemporaryDirectory(dir=stress.folder) as folder:
        DetectionCheckpointer(model, folder).save("saved")
        found = torch.load(os.path.join(folder, "saved.pth"))
    if list(found["model"]) != list(stress.weights) or not all(
        torch.equal(found["model"][key], value) for key, value in stress.weights.items()
    ):
        stress.problems.append(f"save {name}: other weights")
    # Without the overlay, detectron2 saves no structure.
    if "struct" in found:
        stress.structs.append(name)
        if _values(found["struct"]) != _values(stress.struct):
            stress.problems.append(f"save {name}: another struct")


def _values(struct):
    # YAML writes a list that two keys share as an alias, and what is read shares none: the texts
    # of two equal configs differ.
    return {**struct, "config": yaml.safe_load(struct["config"])}


def _load(stress, name):
    stress.check("load", blendprune.load(stress.path))


#: Step → what a thread does, with a name of its own.
ACTIONS = {
    "import": _import,
    "apply": lambda stress, name: blendprune.apply(),
    "revert": lambda stress, name: blendprune.revert(),
    "build": _build,
    "save": _save,
    "load": _load,
}


def stress(orders, seed=0):
    """Run some orders.

    Args:
        orders (int): how many.
        seed (int): of the first one.

    Returns:
        Stress: what was counted and found. The overlay is not applied at the end.
    """
    blendprune.revert()
    interval = sys.getswitchinterval()
    with tempfile.TemporaryDirectory() as folder:
        found = Stress(folder)
        sys.path.insert(0, folder)
        sys.setswitchinterval(1e-4)  # threads take turns often
        try:
            for number in Counted(range(orders), "order"):
                found.order(seed + number)
        finally:
            sys.setswitchinterval(interval)
            sys.path.remove(folder)
    return found


def main():
    """Run the orders and print what was found."""
    parser = argparse.ArgumentParser(prog="python -m tests.stress")
    parser.add_argument("--orders", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    torch.set_num_threads(1)
    logging.disable(logging.WARNING)
    with LoggedProgress(functools.partial(print, flush=True)).heard():
        found = stress(args.orders, args.seed)
    count = Counter(found.taken)
    steps = ", ".join(f"{name} {count[name]}" for name in sorted(ACTIONS))
    print(
        f"{args.orders} orders, {len(found.taken)} steps on {THREADS} threads: {steps} "
        f"({len(found.structs)} with a structure)\n"
        f"{len(found.problems)} problems"
    )
    for problem in found.problems[:20]:
        print(problem)
    return int(bool(found.problems))


if __name__ == "__main__":
    raise SystemExit(main())
