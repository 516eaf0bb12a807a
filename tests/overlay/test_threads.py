"""Applying and reverting while other threads build, run, copy, save and load models."""

import argparse
import copy
import gc
import inspect
import io
import itertools
import pickle
import random
import sys
import threading
import time
import types

import pytest
import torch
from detectron2.modeling import build_model
from detectron2.modeling.backbone.resnet import BasicBlock, BasicStem, ResNet

import blendprune
from blendprune import overlay
from blendprune.overlay import _provenance


@pytest.fixture
def often():
    """Lets threads take turns as often as possible."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    yield
    sys.setswitchinterval(before)


def _resnet():
    net = ResNet(BasicStem(3, 8), [[BasicBlock(8, 16, stride=2)], [BasicBlock(16, 16)]])
    return net.eval()


class Workers:
    """Two threads that get models in every way, and check what they compute."""

    def __init__(self):
        torch.manual_seed(0)
        self.x = torch.rand(1, 3, 16, 16)
        reference = _resnet()
        self.weights = {
            key: torch.rand_like(value) + 0.1 if value.is_floating_point() else value
            for key, value in reference.state_dict().items()
        }
        self.expected = self.run(self.load(reference))
        with blendprune.applied():
            self.shared = self.load(_resnet())
        self.count = dict.fromkeys(ACTIONS, 0)
        self.problems, self.kept = [], [self.shared]
        self.ending = threading.Event()
        self.threads = [threading.Thread(target=self.work, args=(seed,)) for seed in range(2)]

    def run(self, net):
        with torch.no_grad():
            return net(self.x)["res3"]

    def load(self, net):
        net.load_state_dict(self.weights)
        return net

    def check(self, name, net):
        self.count[name] += 1
        if not torch.equal(self.run(net), self.expected):
            self.problems.append((name, "output"))
        if list(net.state_dict()) != list(self.weights):
            self.problems.append((name, "keys"))

    def work(self, seed):
        choose = random.Random(seed).choice
        try:
            while not self.ending.is_set():
                name = choose(list(ACTIONS))
                net = ACTIONS[name](self)
                self.check(name, net)
                if len(self.kept) < 100:
                    self.kept.append(net)
        except Exception as error:
            self.problems.append((name, repr(error)))

    def __enter__(self):
        for thread in self.threads:
            thread.start()
        return self

    def __exit__(self, *error):
        self.ending.set()
        for thread in self.threads:
            thread.join()
        for net in self.kept:  # whatever was built when, now without the overlay, then with it
            self.check("run", net)
        with blendprune.applied():
            for net in self.kept:
                self.check("run", net)


def _save_and_load(workers):
    file = io.BytesIO()
    torch.save(workers.shared, file)
    file.seek(0)
    return torch.load(file, weights_only=False)


#: What a thread does to get the model that it runs next.
ACTIONS = {
    "build": lambda workers: workers.load(_resnet()),
    "run": lambda workers: workers.shared,
    "copy": lambda workers: copy.deepcopy(workers.shared),
    "pickle": lambda workers: pickle.loads(pickle.dumps(workers.shared)),
    "save": _save_and_load,
}


def test_no_forward_is_wrong_while_one_patch_comes_and_goes(often):
    (patch,) = [p for p in overlay.PATCHES if p.name == "separate-basic-block-norms"]
    before = dict(vars(BasicBlock))
    with Workers() as workers:
        for _ in range(300):
            patch.apply(sys.modules[patch.module])
            time.sleep(0.001)
            patch.revert()
            time.sleep(0.001)
    assert workers.problems == []
    assert min(workers.count.values()) > 0
    assert dict(vars(BasicBlock)) == before


@pytest.mark.slow
def test_no_forward_is_wrong_while_the_overlay_comes_and_goes():
    with Workers() as workers:
        for _ in range(10):
            blendprune.apply()
            blendprune.revert()
    assert workers.problems == []
    assert min(workers.count.values()) > 0


def test_building_under_prune_while_reverting_leaves_nothing_behind(retinanet_cfg):
    from detectron2.modeling import META_ARCH_REGISTRY

    kind = META_ARCH_REGISTRY.get("RetinaNet")
    with blendprune.applied():
        cfg = retinanet_cfg("MODEL.PRUNE", True)
    before, stop, problems = dict(vars(kind)), threading.Event(), []

    def build():
        while not stop.is_set():
            try:
                build_model(cfg)
            except Exception as error:
                problems.append(error)

    thread = threading.Thread(target=build)
    thread.start()
    for _ in range(5):
        blendprune.apply()
        time.sleep(0.02)
        blendprune.revert()
    stop.set()
    thread.join()
    assert problems == []
    assert dict(vars(kind)) == before


def test_a_module_that_imports_a_name_while_it_is_restored_gets_upstreams(monkeypatch):
    import detectron2.modeling

    from blendprune.overlay import _patch

    upstreams = detectron2.modeling.build_model
    late, looked_up = types.ModuleType("late_script"), _patch.globals_above

    def globals_above(module):
        found = looked_up(module)
        # What the other thread does right after this one has listed the modules.
        if module.__name__ == "detectron2.modeling.meta_arch.build":
            monkeypatch.setitem(sys.modules, "late_script", late)
        return found

    with blendprune.applied():
        late.build_model = detectron2.modeling.build_model
        assert late.build_model is not upstreams
        monkeypatch.setattr(_patch, "globals_above", globals_above)
    assert late.build_model is upstreams


def test_the_defaults_are_not_changed_while_they_are_copied():
    from detectron2.config.defaults import _C

    from blendprune.config.defaults import DEFAULTS_LOCK, default_cfg

    for change, prunes in ((blendprune.apply, True), (blendprune.revert, False)):
        thread = threading.Thread(target=change)
        with DEFAULTS_LOCK:
            thread.start()
            thread.join(0.3)
            assert thread.is_alive()
            assert ("PRUNE" in default_cfg().MODEL) is not prunes
        thread.join()
        assert ("PRUNE" in _C.MODEL) is prunes


def test_a_source_is_read_again_when_another_thread_has_emptied_the_cache_of_lines(monkeypatch):
    read, calls = inspect.getsource, []

    def lost_once(target):
        calls.append(target)
        if len(calls) == 1:
            raise OSError("could not get source code")
        return read(target)

    monkeypatch.setattr(inspect, "getsource", lost_once)
    assert _provenance.digest(argparse, ("ArgumentParser.parse_args",)).isalnum()
    assert len(calls) > 1


def test_a_collection_of_garbage_that_imports_disturbs_nothing(monkeypatch):
    """A collection runs other threads, and others' finalizers, in the middle of a loop."""
    import detectron2.modeling

    names = (f"grown_{number}" for number in itertools.count())
    grown = []

    def grow(phase, info):
        grown.append(next(names))
        monkeypatch.setitem(sys.modules, grown[-1], types.ModuleType(grown[-1]))
        monkeypatch.setattr(detectron2.modeling, grown[-1], object(), raising=False)

    overlay.import_targets()
    blendprune.revert()
    thresholds = gc.get_threshold()
    gc.set_threshold(50)
    gc.callbacks.append(grow)
    try:
        with blendprune.applied():
            states = {line.name: line.state for line in overlay.status()}
    finally:
        gc.callbacks.remove(grow)
        gc.set_threshold(*thresholds)
    assert len(grown) > 10
    assert "applied" in states.values()
    assert not {"drifted", "overridden"} & set(states.values())
