"""The overlay comes and goes in random orders on four threads; `make stress` runs a thousand."""

from tests import stress


def test_no_order_on_four_threads_leaves_anything_behind_or_computes_anything_wrong():
    found = stress.stress(3)
    assert found.problems == []
    assert len(found.taken) == 3 * stress.THREADS * stress.STEPS


def test_what_is_left_behind_is_found(tmp_path, monkeypatch):
    from detectron2.checkpoint import DetectionCheckpointer

    found = stress.Stress(str(tmp_path))
    monkeypatch.setattr(stress, "STEPS", 0)
    found.order(0)
    assert found.problems == []
    before = found.snapshot
    monkeypatch.setattr(DetectionCheckpointer, "load", lambda *_: None)
    changed = before()
    monkeypatch.undo()
    assert changed != before()
