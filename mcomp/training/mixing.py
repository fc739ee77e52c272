"""Images mixed in pairs, and their labels with them.

Mixup after Zhang et al., "mixup: Beyond Empirical Risk Minimization" (arXiv:1710.09412); CutMix after Yun et al.,
"CutMix: Regularization Strategy to Train Strong Classifiers with Localizable Features" (arXiv:1905.04899).
"""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from mcomp.training.settings import TrainSettings


class Mixing:
    """Mixes every batch with itself in another order; one share for the whole batch, drawn from Beta(alpha, alpha).

    Where both ways are asked for, each step takes one of them, with equal chance. What is drawn depends on the seed
    and the step alone, so that a run that goes on in the middle mixes as one that was never stopped.

    Args:
        settings: ``mixup`` and ``cutmix`` are the alphas; 0 turns a way off, and one of them is above.
        classes: of the labels.
        seed: of the run.
    """

    def __init__(self, settings: TrainSettings, classes: int, seed: int) -> None:
        self._ways = [(way, alpha) for way, alpha in ((mixup, settings.mixup), (cutmix, settings.cutmix)) if alpha > 0]
        self._classes = classes
        self._seed = seed

    def __call__(self, images: Tensor, labels: Tensor, step: int) -> tuple[Tensor, Tensor]:
        """Images ``(N, C, H, W)`` and labels ``(N,)`` as mixed images and probabilities ``(N, classes)``.

        Args:
            images: left as they are.
            labels: numbers of classes.
            step: of the whole run, from 0.
        """
        draw = np.random.default_rng([self._seed % 2**64, step])
        way, alpha = self._ways[int(draw.integers(len(self._ways)))]
        order = torch.from_numpy(draw.permutation(len(images))).to(images.device)
        mixed, share = way(images, images[order], float(draw.beta(alpha, alpha)), draw)
        target = F.one_hot(labels, self._classes).float()
        return mixed, share * target + (1 - share) * target[order]


def mixup(images: Tensor, others: Tensor, share: float, _draw: np.random.Generator) -> tuple[Tensor, float]:
    """``share`` of each image and the rest of its partner, pixel by pixel; and ``share``."""
    return torch.lerp(others, images, share), share


def cutmix(images: Tensor, others: Tensor, share: float, draw: np.random.Generator) -> tuple[Tensor, float]:
    """Each image with a box of its partner, of ``1 - share`` of its area; and the share that is left of it.

    The box has the image's proportions and its centre anywhere, so that an edge may cut it.
    """
    height, width = images.shape[-2:]
    side = math.sqrt(1 - share)
    (top, bottom), (left, right) = (_span(length, side, draw) for length in (height, width))
    mixed = images.clone()
    mixed[..., top:bottom, left:right] = others[..., top:bottom, left:right]
    return mixed, 1 - (bottom - top) * (right - left) / (height * width)


def _span(length: int, share: float, draw: np.random.Generator) -> tuple[int, int]:
    """The pixels of a line that a piece around a random centre covers."""
    half, centre = round(length * share) / 2, float(draw.uniform(0, length))
    return max(round(centre - half), 0), min(round(centre + half), length)
