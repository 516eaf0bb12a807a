"""Scenes of handwritten digits, composed of the scans in scikit-learn.

The scans are real: 1797 digits by 43 people, 8x8 pixels each, the test part of the UCI set
"Optical Recognition of Handwritten Digits" (`sklearn.datasets.load_digits`). A scene shows several
of them on a textured background with strokes that are not digits. The digits differ in size, slant
and contrast, and may partly cover each other. No threshold separates them, so this is a real
detection task. Nothing is downloaded.
"""

import math
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw
from sklearn.datasets import load_digits

NUM_CLASSES = 10
# Ink in a scan ranges from 0 to 16; a stroke's edge is where the ink crosses this value.
INK_EDGE = 7.0
# A digit is placed only if at least this fraction of every other one stays visible.
MIN_VISIBLE = 0.6


@dataclass(frozen=True)
class Scans:
    """Digit scans of one split.

    Attributes:
        images (ndarray): float32, (N, 8, 8), ink from 0 to 16.
        labels (ndarray): int64, (N,), the digit shown.
        indices (ndarray): int64, (N,), position in scikit-learn's data set.
    """

    images: np.ndarray
    labels: np.ndarray
    indices: np.ndarray

    def take(self, positions):
        return Scans(self.images[positions], self.labels[positions], self.indices[positions])


@dataclass(frozen=True)
class Scene:
    """One image and its digits, the last one on top.

    Attributes:
        image (ndarray): uint8 RGB, (size, size, 3).
        masks (ndarray): bool, (N, size, size), the visible pixels of each digit; disjoint.
        labels (ndarray): int64, (N,), the digit shown.
        scans (ndarray): int64, (N,), index of each scan in scikit-learn's data set.
    """

    image: np.ndarray
    masks: np.ndarray
    labels: np.ndarray
    scans: np.ndarray


def split_scans(seed=0, test_fraction=0.3):
    """Split the scans per digit into training and test scans.

    Args:
        seed (int): selects the split.
        test_fraction (float): fraction of each digit's scans for testing.

    Returns:
        tuple[Scans, Scans]: training scans and test scans, disjoint.
    """
    bunch = load_digits()
    scans = Scans(
        bunch.images.astype(np.float32),
        bunch.target.astype(np.int64),
        np.arange(len(bunch.target), dtype=np.int64),
    )
    rng = np.random.default_rng([seed, 0])
    train, test = [], []
    for digit in range(NUM_CLASSES):
        order = rng.permutation(np.flatnonzero(scans.labels == digit))
        cut = round(len(order) * test_fraction)
        test.append(order[:cut])
        train.append(order[cut:])
    return scans.take(np.sort(np.concatenate(train))), scans.take(np.sort(np.concatenate(test)))


def draw_scene(scans, rng, size=128):
    """Draw one scene.

    Args:
        scans (Scans): the digits to choose from.
        rng (numpy.random.Generator): its state determines the scene.
        size (int): width and height of the image in pixels; digits scale with it.

    Returns:
        Scene: with at least one digit.
    """
    canvas = _background(rng, size)
    _scribble(canvas, rng)

    masks, inked, chosen = [], [], []
    wanted = rng.integers(2, 6)
    for _ in range(4 * wanted):
        if len(masks) == wanted:
            break
        pick = int(rng.integers(len(scans.labels)))
        alpha = _place(_ink(scans.images[pick], rng, size), rng, size)
        mask = alpha > 0.5
        if not _leaves_room(masks, inked, mask):
            continue
        masks = [below & ~mask for below in masks] + [mask]
        inked.append(mask.sum())
        chosen.append(pick)
        canvas += alpha[..., None] * (_colour(canvas[mask], rng) - canvas)

    canvas += rng.normal(0.0, rng.uniform(2.0, 7.0), canvas.shape)
    return Scene(
        canvas.clip(0, 255).round().astype(np.uint8),
        np.stack(masks),
        scans.labels[chosen],
        scans.indices[chosen],
    )


def _background(rng, size):
    """Draw a background: a gradient, blotches and, in half of the scenes, stripes."""
    y, x = np.mgrid[0:size, 0:size].astype(np.float32) / size - 0.5
    angle = rng.uniform(0, 2 * math.pi)
    slope = rng.uniform(0, 70) * (math.cos(angle) * x + math.sin(angle) * y)
    grid = int(rng.integers(3, 17))
    blotches = np.stack(
        [
            _resize(rng.normal(0, 1, (grid, grid)).astype(np.float32), (size, size))
            for _ in range(3)
        ],
        axis=-1,
    )
    canvas = rng.uniform(60, 195) + rng.normal(0, 15, 3) + slope[..., None]
    canvas = canvas + rng.uniform(4, 16) * blotches
    if rng.random() < 0.5:
        angle = rng.uniform(0, 2 * math.pi)
        waves = rng.uniform(4, 20) * 2 * math.pi
        stripes = np.sin(waves * (math.cos(angle) * x + math.sin(angle) * y))
        canvas = canvas + rng.uniform(4, 12) * stripes[..., None]
    return canvas.clip(0, 255).astype(np.float32)


def _scribble(canvas, rng):
    """Draw strokes like those of digits, in place, that belong to no digit."""
    size = len(canvas)
    for _ in range(rng.integers(0, 4)):
        layer = Image.new("L", (size, size))
        pen = ImageDraw.Draw(layer)
        centre = rng.uniform(0, size, 2)
        reach = rng.uniform(0.06, 0.22) * size
        width = max(1, round(rng.uniform(0.015, 0.05) * size))
        if rng.random() < 0.6:
            angle = rng.uniform(0, 2 * math.pi)
            step = reach * np.array([math.cos(angle), math.sin(angle)])
            pen.line([*(centre - step), *(centre + step)], fill=255, width=width)
        else:
            start = rng.uniform(0, 360)
            box = [*(centre - reach), *(centre + reach)]
            pen.arc(box, start, start + rng.uniform(40, 160), fill=255, width=width)
        stroke = np.asarray(layer) > 0
        if stroke.any():
            canvas[stroke] = _colour(canvas[stroke], rng)


def _ink(scan, rng, size):
    """Scale and rotate a scan; return the opacity per pixel, float32 (h, w) in 0..1."""
    height = rng.uniform(0.32, 0.56) * size
    width = height * rng.uniform(0.85, 1.2)
    # Scans often touch their border; the margin keeps the ends of strokes round.
    padded = np.pad(scan, 1)
    shape = round(height * padded.shape[0] / 8), round(width * padded.shape[1] / 8)
    picture = Image.fromarray(_resize(padded, shape))
    turned = picture.rotate(rng.uniform(-10, 10), Image.Resampling.BILINEAR, expand=True)
    return ((np.asarray(turned) - INK_EDGE) / 4 + 0.5).clip(0, 1)


def _place(ink, rng, size):
    """Paste the ink at a random place; at most a small part lies outside the image."""
    rows, columns = np.nonzero(ink > 0.5)
    ink = ink[rows.min() : rows.max() + 1, columns.min() : columns.max() + 1]
    height, width = ink.shape
    spill = 0.08
    top = round(rng.uniform(-spill * height, size - (1 - spill) * height))
    left = round(rng.uniform(-spill * width, size - (1 - spill) * width))
    alpha = np.zeros((size, size), np.float32)
    y0, x0 = max(top, 0), max(left, 0)
    y1, x1 = min(top + height, size), min(left + width, size)
    alpha[y0:y1, x0:x1] = ink[y0 - top : y1 - top, x0 - left : x1 - left]
    return alpha


def _leaves_room(masks, inked, mask):
    """Whether ``mask`` leaves every earlier digit mostly visible.

    ``masks`` are the earlier digits' visible pixels, ``inked`` their pixel counts when drawn. The
    boxes are compared, too: people cannot read digits written into each other, either.
    """
    if not mask.any():
        return False
    box = _filled_box(mask)
    for below, written in zip(masks, inked, strict=True):
        if (below & ~mask).sum() < MIN_VISIBLE * written:
            return False
        other = _filled_box(below)
        if (box & other).sum() > 0.2 * min(box.sum(), other.sum()):
            return False
    return True


def _filled_box(mask):
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    box = np.zeros_like(mask)
    box[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1] = True
    return box


def _colour(surroundings, rng):
    """Draw a random colour that is lighter or darker than the pixels it replaces."""
    base = surroundings.mean(0)
    sign = rng.choice([-1, 1])
    if base.mean() > 170:
        sign = -1
    elif base.mean() < 85:
        sign = 1
    return base + sign * rng.uniform(50, 120) + rng.normal(0, 12, 3)


def _resize(array, shape):
    height, width = shape
    picture = Image.fromarray(array)
    return np.asarray(picture.resize((width, height), Image.Resampling.BICUBIC))
