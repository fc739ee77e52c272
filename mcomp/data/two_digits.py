"""A set that tells bits apart: two warped digits among fragments of others, and a class for each ordered pair.

Drawn from the embedded scans (:mod:`mcomp.data.digits`). Every image is a function of the seed, its split and its
index in it: more images never change the earlier ones.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from mcomp.data.digits import scans
from mcomp.data.raw import Place, Positions, Raw
from mcomp.data.samples import TensorSamples
from mcomp.data.spec import DataOptions, TwoDigitsOptions

CLASSES = 100
_PIECE = 1024  # images drawn at a time

# Of one drawn thing, in units of half the image's side where it is a length.
_PLACES = ((-0.47, 0.0), (0.47, 0.0))
_JITTER = (0.08, 0.3)
_HALF = (0.38, 0.54)
_TURN = 0.35  # radians, both ways
_SHEAR = 0.3
_INK = (0.6, 1.0)
_FRAGMENT_HALF = (0.12, 0.26)
_NOISE = 0.08


def read(options: DataOptions, place: Place) -> Raw:
    """``samples`` images in three splits of disjoint scans, labels going round within each."""
    assert isinstance(options, TwoDigitsOptions)
    parts = _portions(len(scans()[1]), options), _portions(options.samples, options)
    images, labels, splits, start = [], [], [], 0
    for number, (held, count) in enumerate(zip(*parts, strict=True)):
        drawn, classes = draw(np.arange(len(count)), held, number, options)
        images.append(drawn)
        labels.append(classes)
        splits.append(np.arange(start, start + len(count)))
        start += len(count)
    names = tuple(f"{pair:02d}" for pair in range(CLASSES))
    train, val, test = splits
    return Raw(TensorSamples(torch.cat(images), torch.cat(labels)), names, train, val, test)


def draw(indices: Positions, held: Positions, split: int, options: TwoDigitsOptions) -> tuple[Tensor, Tensor]:
    """The images and labels of one split at ``indices``.

    Args:
        indices: ``(n,)``; the label is the index modulo 100.
        held: positions of the scans that this split may show.
        split: 0 train, 1 val, 2 test.
        options: size, fragments and seed.

    Returns:
        Images ``(n, 1, size, size)`` uint8 and labels ``(n,)`` int64.
    """
    pixels, digits = scans()
    pixels, digits = pixels[held], digits[held]
    by_class = [np.flatnonzero(digits.numpy() == digit) for digit in range(10)]
    labels = indices % CLASSES
    images = []
    for start in range(0, len(indices), _PIECE):
        random = _Draws(indices[start : start + _PIECE], split, options.draw_seed)
        pairs = labels[start : start + _PIECE]
        canvas = torch.zeros(len(pairs), 1, options.image_size or 32, options.image_size or 32)
        for spot, digit in zip(_PLACES, (pairs // 10, pairs % 10), strict=True):
            shown = _chosen(by_class, digit, random.uniform())
            canvas = torch.maximum(canvas, _placed(pixels[shown], spot, random, canvas))
        for _ in range(options.fragments):
            any_scan = torch.from_numpy((random.uniform() * len(pixels)).astype(np.int64))
            canvas = torch.maximum(canvas, _fragment(pixels[any_scan], random, canvas))
        canvas = canvas + _NOISE * _grain(random, canvas)
        images.append((canvas.clamp(0, 1) * 255).round().to(torch.uint8))
    return torch.cat(images), torch.from_numpy(labels.astype(np.int64))


def _portions(count: int, options: TwoDigitsOptions) -> list[Positions]:
    """Train, val and test as neighbouring parts of ``range(count)``; scans of one writer are neighbours."""
    test = round(count * options.test_fraction)
    val = round((count - test) * options.val_fraction)
    return np.split(np.arange(count), [count - test - val, count - test])


def _chosen(by_class: list[NDArray[np.int64]], digit: NDArray[np.int64], share: NDArray[np.float64]) -> Tensor:
    sizes = np.array([len(each) for each in by_class])
    starts = np.concatenate([[0], np.cumsum(sizes)[:-1]])
    flat = np.concatenate(by_class)
    return torch.from_numpy(flat[starts[digit] + (share * sizes[digit]).astype(np.int64)])


def _placed(ink: Tensor, spot: tuple[float, float], random: _Draws, canvas: Tensor) -> Tensor:
    """Scans ``(n, 1, 8, 8)`` at their place, warped each in its own way, on a canvas of that size."""
    x = spot[0] + _JITTER[0] * random.between(-1, 1)
    y = spot[1] + _JITTER[1] * random.between(-1, 1)
    return _warped(ink, x, y, random.between(*_HALF), random, canvas)


def _fragment(ink: Tensor, random: _Draws, canvas: Tensor) -> Tensor:
    """A quarter of a scan, small, anywhere."""
    corner = (random.uniform() * 4).astype(np.int64)
    rows = torch.from_numpy(corner // 2 * 4)[:, None] + torch.arange(4)
    columns = torch.from_numpy(corner % 2 * 4)[:, None] + torch.arange(4)
    quarter = ink[torch.arange(len(ink))[:, None, None], 0, rows[:, :, None], columns[:, None, :]][:, None]
    x, y = random.between(-1, 1), random.between(-1, 1)
    return _warped(quarter, x, y, random.between(*_FRAGMENT_HALF), random, canvas)


def _warped(
    ink: Tensor, x: NDArray[np.float64], y: NDArray[np.float64], half: NDArray[np.float64], random: _Draws, like: Tensor
) -> Tensor:
    """``ink`` turned, sheared and scaled to ``half`` of the canvas, its centre at ``(x, y)``."""
    turn, shear = random.between(-_TURN, _TURN), random.between(-_SHEAR, _SHEAR)
    forward = np.empty((len(x), 2, 2))
    forward[:, 0, 0], forward[:, 0, 1] = np.cos(turn), shear * np.cos(turn) - np.sin(turn)
    forward[:, 1, 0], forward[:, 1, 1] = np.sin(turn), shear * np.sin(turn) + np.cos(turn)
    back = np.linalg.inv(forward * half[:, None, None])  # grid_sample asks where a pixel comes from
    shift = -np.einsum("nij,nj->ni", back, np.stack([x, y], 1))
    theta = torch.from_numpy(np.concatenate([back, shift[:, :, None]], 2)).float()
    grid = F.affine_grid(theta, list(like.shape), align_corners=False)
    strength = torch.from_numpy(random.between(*_INK)).float().view(-1, 1, 1, 1)
    return strength * F.grid_sample(ink, grid, align_corners=False)


def _grain(random: _Draws, canvas: Tensor) -> Tensor:
    """Noise of variance 1, another for every image."""
    count = canvas[0].numel()
    uniform = random.field(count)
    return torch.from_numpy((uniform - 0.5) * np.sqrt(12)).float().view_as(canvas)


class _Draws:
    """Uniform numbers that depend on the seed, the split, the index and how many were drawn before, and on no order.

    SplitMix64 (Steele et al., "Fast Splittable Pseudorandom Number Generators", OOPSLA 2014) of a counter.
    """

    def __init__(self, indices: Positions, split: int, seed: int) -> None:
        salt = np.array([seed * 4 + split], dtype=np.uint64)
        self._keys = _mixed(_mixed(salt) + indices.astype(np.uint64))
        self._drawn = 0

    def uniform(self) -> NDArray[np.float64]:
        """One number in [0, 1) per image."""
        return self.field(1)[:, 0]

    def between(self, low: float, high: float) -> NDArray[np.float64]:
        """One number in [low, high) per image."""
        return low + (high - low) * self.uniform()

    def field(self, count: int) -> NDArray[np.float64]:
        """``(images, count)`` numbers in [0, 1)."""
        counter = np.arange(self._drawn, self._drawn + count, dtype=np.uint64)
        self._drawn += count
        mixed = _mixed(self._keys[:, None] + counter * np.uint64(0x9E3779B97F4A7C15))
        return (mixed >> np.uint64(11)).astype(np.float64) * 2.0**-53


def _mixed(bits: NDArray[np.uint64]) -> NDArray[np.uint64]:
    bits = (bits ^ (bits >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    bits = (bits ^ (bits >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return bits ^ (bits >> np.uint64(31))
