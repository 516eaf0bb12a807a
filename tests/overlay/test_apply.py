"""Applying, reverting, and every order in which that can meet an import."""

import importlib.util
import itertools
import json
import os
import subprocess
import sys
import textwrap

import pytest
import torch

import blendprune
from blendprune import overlay
from blendprune.errors import UpstreamDrift
from blendprune.overlay import _patch


@pytest.fixture
def python(fresh_python):
    """A function that runs indented code in a process of its own."""
    return lambda code, *args: fresh_python(textwrap.dedent(code), *args)


STEPS = {
    "import module": "import detectron2.modeling.backbone.resnet",
    "import name": "from detectron2.modeling.backbone.resnet import BasicBlock",
    "import builder": "from detectron2.modeling import build_model",
    "apply": "blendprune.apply(); applied = True",
    "apply again": "blendprune.apply(); applied = True",
    "revert": "blendprune.revert(); applied = False",
}
#: Each order of the steps in which an import, two applications and a revert can meet.
ORDERS = sorted(
    {
        order
        for kind in ("import module", "import name", "import builder")
        for order in itertools.permutations((kind, "apply", "apply again", "revert"))
        if order.index("apply") < order.index("apply again")
    }
)


def test_no_order_is_missing():
    assert len(ORDERS) == 3 * 24 / 2


@pytest.mark.slow
def test_every_order_of_import_apply_and_revert():
    # One interpreter per kind of import; modules are dropped between orders.
    script = """
        import json, sys, types
        import blendprune
        from blendprune import overlay
        orders, steps = json.loads(sys.stdin.read())
        def fresh():
            overlay.revert()
            overlay._hooked.clear()  # wrapt calls a hook once a process
            for name in [n for n in sys.modules if n.startswith("detectron2.modeling")]:
                del sys.modules[name]
            for name in [n for n in sys.modules if n.startswith("blendprune.modeling")]:
                del sys.modules[name]
            sys.modules.get("detectron2") and sys.modules["detectron2"].__dict__.pop("modeling", 0)
        for order in orders:
            fresh()
            script = sys.modules["train_net"] = types.ModuleType("train_net")
            script.blendprune = blendprune
            scope = vars(script)
            for step in order:
                exec(steps[step], scope)
            applied = scope["applied"]
            from detectron2.modeling.backbone.resnet import BasicBlock
            import detectron2.modeling as m
            block = scope.get("BasicBlock", BasicBlock)
            assert block is BasicBlock
            assert hasattr(block(4, 8), "norm3") is applied, order
            assert set(vars(block)) >= {"__init__", "forward"}
            assert ("_load_from_state_dict" in vars(block)) is applied, order
            build = scope.get("build_model", m.build_model)
            assert build is m.build_model is m.meta_arch.build.build_model, order
            assert hasattr(build, "__wrapped__") is applied, order
        print(len(orders))
    """
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", textwrap.dedent(script)],
        input=json.dumps([ORDERS, STEPS]),
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.strip() == str(len(ORDERS))


def test_importing_blendprune_imports_and_patches_nothing(python):
    python(
        """
        import sys
        import blendprune
        assert not {"detectron2", "adet", "torch_pruning"} & set(sys.modules)
        assert all(row.state == "pending" for row in blendprune.status())
        import detectron2.modeling.backbone.resnet as r
        assert not hasattr(r.BasicBlock(4, 8), "norm1")
        """
    )


def test_the_auto_module_applies(python):
    python(
        """
        import blendprune.auto
        from detectron2.modeling.backbone.resnet import BasicBlock
        from detectron2.config import get_cfg
        assert hasattr(BasicBlock(4, 8), "norm1")
        assert get_cfg().MODEL.PRUNE is False and get_cfg().MODEL.FINETUNE is False
        """
    )


def test_reverting_restores_every_touched_class_exactly():
    overlay.import_targets()
    before = _snapshot()
    blendprune.apply()
    assert _snapshot() != before
    blendprune.revert()
    assert _snapshot() == before


def _snapshot():
    """Identities of all that patches touch."""
    from detectron2.checkpoint import DetectionCheckpointer
    from detectron2.config.defaults import _C
    from detectron2.modeling import META_ARCH_REGISTRY
    from detectron2.modeling.backbone.resnet import BasicBlock

    from blendprune.modeling.blendmask import BlendMask
    from blendprune.modeling.fcos import FCOS

    classes = (BasicBlock, DetectionCheckpointer, BlendMask, FCOS)
    import detectron2.engine
    import detectron2.modeling

    return (
        [{k: id(v) for k, v in vars(cls).items()} for cls in classes],
        id(detectron2.modeling.build_model),
        id(detectron2.engine.launch),
        _C.dump(),
        sorted(META_ARCH_REGISTRY._obj_map),
    )


def test_the_context_manager_leaves_an_applied_overlay_applied():
    with blendprune.applied():
        with blendprune.applied():
            pass
        assert overlay.drift_policy() == "raise"
    assert overlay.drift_policy() is None


def test_drift_is_refused_and_nothing_is_changed(monkeypatch):
    overlay.import_targets()
    before = _snapshot()
    patch = next(p for p in overlay.PATCHES if p.name == "save-struct" and p.when())
    monkeypatch.setattr(patch, "digests", ("0" * 16,))
    with pytest.raises(UpstreamDrift) as error:
        blendprune.apply()
    assert _snapshot() == before
    found = _patch.digest(sys.modules[patch.module], patch.watches)
    for part in (patch.module, "0" * 16, found, 'apply(on_drift="warn")'):
        assert part in str(error.value)


def test_drift_can_be_accepted_with_a_warning(monkeypatch):
    overlay.import_targets()
    patch = next(p for p in overlay.PATCHES if p.name == "save-struct" and p.when())
    monkeypatch.setattr(patch, "digests", ("0" * 16,))
    with pytest.warns(UserWarning, match="was written against"):
        blendprune.apply(on_drift="warn")
    states = {row.name: row.state for row in blendprune.status()}
    blendprune.revert()
    assert states.pop("save-struct") == "drifted"
    assert set(states.values()) == {"applied"}


def test_accepted_drift_without_a_method_leaves_that_patch_out(monkeypatch):
    overlay.import_targets()
    before = _snapshot()
    patch = next(p for p in overlay.PATCHES if p.name == "save-struct" and p.when())

    def install(module, edits):
        edits.set(module.DetectionCheckpointer, "save", print)
        edits.wrap(module.DetectionCheckpointer, "method_of_another_release", print)

    monkeypatch.setattr(patch, "install", install)
    with pytest.raises(AttributeError):  # of a source that is known, it is a fault of ours
        blendprune.apply()
    monkeypatch.setattr(patch, "digests", ("0" * 16,))
    with pytest.warns(UserWarning, match="'save-struct' is left out: .* lacks what it changes"):
        blendprune.apply(on_drift="warn")
    row = next(row for row in blendprune.status() if row.name == "save-struct")
    assert row.state == "drifted" and row.detail.endswith("; left out")
    blendprune.revert()
    assert _snapshot() == before


def test_drift_found_at_import_fails_that_import_and_changes_nothing_else(python):
    python(
        """
        import sys
        import blendprune
        from blendprune import overlay
        from blendprune.errors import UpstreamDrift
        import detectron2.modeling.backbone.resnet as r
        patch = next(p for p in overlay.PATCHES if p.name == "carry-overlay-to-workers")
        digests, patch.digests = patch.digests, ("0" * 16,)
        blendprune.apply()
        before = {row.name: row.state for row in blendprune.status()}
        for attempt in range(2):
            try:
                import detectron2.engine.launch
            except UpstreamDrift as error:
                assert "0" * 16 in str(error)
            else:
                raise SystemExit("no drift was found")
            assert "detectron2.engine.launch" not in sys.modules
            assert hasattr(r.BasicBlock(4, 8), "norm1")
            assert overlay.drift_policy() == "raise"
            after = {row.name: row.state for row in blendprune.status()}
            assert after.pop("carry-overlay-to-workers") == "drifted"
            assert after.items() <= before.items()
        patch.digests = digests
        import detectron2.engine.launch
        assert {row.name: row.state for row in blendprune.status()}[patch.name] == "applied"
        """
    )


def test_an_import_that_fails_leaves_the_overlay_as_it_was(python):
    python(
        """
        import sys
        import blendprune
        from blendprune import overlay
        import detectron2.modeling.backbone.resnet as r
        blendprune.apply()
        def applied():
            return {row.name for row in blendprune.status() if row.state == "applied"}
        before = applied()
        sys.modules["detectron2.utils.events"] = None
        try:
            import detectron2.engine
        except ImportError:
            pass
        else:
            raise SystemExit("the import did not fail")
        assert "separate-basic-block-norms" in before <= applied()
        assert "add-training-hooks" not in applied()
        assert overlay.drift_policy() == "raise"
        assert hasattr(r.BasicBlock(4, 8), "norm1")
        del sys.modules["detectron2.utils.events"]
        import detectron2.engine
        assert {"add-training-hooks", "carry-overlay-to-workers"} <= applied()
        """
    )


def test_applying_while_another_thread_imports_patches_everything(python):
    python(
        """
        import threading, time
        import blendprune
        def load():
            import detectron2.modeling, detectron2.engine
        thread = threading.Thread(target=load)
        thread.start()
        time.sleep(0.3)
        blendprune.apply()
        thread.join()
        blendprune.overlay.import_targets()
        assert {row.state for row in blendprune.status()} == {"applied"}
        """
    )


OWN = ["backbone", "blender", "blendmask", "fcos"]


def test_any_part_of_our_own_blendmask_can_be_imported_first(python):
    script = """
        import multiprocessing, sys
        def check(name):
            import blendprune
            blendprune.apply()
            __import__(f"blendprune.modeling.{name}")
            import detectron2.modeling as m
            from blendprune.modeling.blendmask import BlendMask
            assert m.META_ARCH_REGISTRY.get("BlendMask") is BlendMask
            assert blendprune.overlay.drift_policy() == "raise"
            blendprune.overlay.import_targets()
            assert {row.state for row in blendprune.status()} == {"applied"}, name
            blendprune.revert()
            assert "BlendMask" not in m.META_ARCH_REGISTRY
        if __name__ == "__main__":
            import blendprune, torchvision, fvcore.nn  # what takes long, but nothing of detectron2
            assert not any(name.startswith("detectron2") for name in sys.modules)
            context = multiprocessing.get_context("fork")
            for name in sys.argv[1:]:
                process = context.Process(target=check, args=(name,))
                process.start()
                process.join()
                assert process.exitcode == 0, name
    """
    python(script, *OWN)


def test_a_pickled_blendmask_loads_in_a_fresh_process(python, registered, blendmask_cfg, tmp_path):
    from detectron2.modeling import build_model

    model = build_model(blendmask_cfg("MODEL.PRUNE", True))
    image = torch.rand(3, 64, 64) * 255
    expected = model([{"image": image}])["bases"][0]
    torch.save((model, image, expected), tmp_path / "model.pth")
    python(
        """
        import sys
        sys.path[:0] = sys.argv[2:]
        import torch, blendprune
        torch.set_num_threads(1)
        blendprune.apply()
        model, image, expected = torch.load(sys.argv[1], weights_only=False)
        assert blendprune.overlay.drift_policy() == "raise"
        assert torch.equal(model([{"image": image}])["bases"][0], expected)
        from detectron2.modeling import META_ARCH_REGISTRY
        assert META_ARCH_REGISTRY.get("BlendMask") is type(model)
        """,
        str(tmp_path / "model.pth"),
        # A model of AdelaiDet's own class.
        *filter(None, [os.environ.get("ADELAIDET_ROOT")]),
    )


def test_a_failing_patch_leaves_nothing_behind(monkeypatch):
    overlay.import_targets()
    before = _snapshot()
    patch = next(p for p in overlay.PATCHES if p.name == "save-struct" and p.when())

    def install(module, edits):
        edits.set(module.DetectionCheckpointer, "load", None)
        raise OSError("broken")

    monkeypatch.setattr(patch, "install", install)
    with pytest.raises(OSError, match="broken"):
        blendprune.apply()
    assert _snapshot() == before
    assert overlay.drift_policy() is None


def test_the_digest_ignores_comments_layout_and_docstrings(tmp_path):
    def digest(source):
        path = tmp_path / f"m{len(list(tmp_path.iterdir()))}.py"
        path.write_text(source)
        spec = importlib.util.spec_from_file_location(path.stem, path)
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        return _patch.digest(module, ("f",))

    plain = digest("def f(a):\n    return a + 1\n")
    assert digest('def f(a):\n    """Doc."""\n\n    # why\n    return (a +\n        1)\n') == plain
    assert digest("def f(a):\n    return a + 2\n") != plain
    assert digest("g = 1\n") == "missing f"


def test_workers_of_launch_get_the_overlay(python):
    python(
        """
        import multiprocessing, blendprune
        from blendprune.overlay.launch import Worker
        blendprune.apply()
        import detectron2.engine.launch, sys
        assert hasattr(sys.modules["detectron2.engine.launch"].launch, "__wrapped__")
        import pickle, subprocess
        data = pickle.dumps(Worker(print, "raise"))
        code = "import pickle, sys; pickle.loads(sys.stdin.buffer.read()); " \\
               "from blendprune import overlay; sys.exit(overlay.drift_policy() != 'raise')"
        subprocess.run([sys.executable, "-c", code], input=data, check=True)
        """
    )
