"""Scenes: which scans they show, and what is drawn."""

import numpy as np

from blendprune.data.scenes import MIN_VISIBLE, draw_scene, split_scans


def test_no_scan_is_in_both_splits_and_none_is_lost():
    train, test = split_scans()
    assert not set(train.indices) & set(test.indices)
    assert len(train.indices) + len(test.indices) == 1797
    assert set(train.labels) == set(test.labels) == set(range(10))


def test_masks_of_a_scene_are_disjoint_and_none_is_empty():
    for index in range(30):
        masks = _scene(index).masks
        assert masks.any((1, 2)).all()
        assert masks.sum(0).max() == 1


def test_masks_are_the_pixels_that_a_digit_changed(monkeypatch):
    from blendprune.data import scenes

    monkeypatch.setattr(scenes, "_scribble", lambda canvas, rng: None)
    canvases = []
    monkeypatch.setattr(scenes, "_background", _keep_copy(scenes._background, canvases))
    scene = _scene(3)
    changed = np.abs(scene.image - canvases[0]).mean(2)
    inside = scene.masks.any(0)
    outside = ~_grown(inside)
    assert np.median(changed[inside]) > 4 * np.median(changed[outside])


def _keep_copy(function, copies):
    def keep(*args):
        result = function(*args)
        copies.append(result.copy())
        return result

    return keep


def _grown(mask, by=3):
    grown = mask.copy()
    for axis in (0, 1):
        for step in range(-by, by + 1):
            grown |= np.roll(grown, step, axis)
    return grown


def test_digits_overlap_and_most_of_each_stays_in_sight(monkeypatch):
    from blendprune.data import scenes

    kept = []
    leaves_room = scenes._leaves_room

    def watch(masks, inked, mask):
        fits = leaves_room(masks, inked, mask)
        if fits:
            kept.extend(
                (below & ~mask).sum() / ink for below, ink in zip(masks, inked, strict=True)
            )
        return fits

    monkeypatch.setattr(scenes, "_leaves_room", watch)
    for index in range(30):
        _scene(index)
    assert MIN_VISIBLE <= min(kept) < 0.95


def test_scenes_scale_with_the_image():
    assert _scene(0, size=64).image.shape == (64, 64, 3)


def _scene(index, size=128):
    return draw_scene(split_scans()[0], np.random.default_rng([0, 1, index]), size)
