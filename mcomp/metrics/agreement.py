"""How far two outputs are apart."""

from __future__ import annotations

import math

from torch import Tensor

from mcomp.errors import UsageError


def top1_agreement(a: Tensor, b: Tensor) -> float:
    """Percent of samples for which two models predict the same class.

    Args:
        a: ``(N,)`` predictions or ``(N, classes)`` logits.
        b: the other model's, of the same N.

    Raises:
        UsageError: different or zero numbers of samples.
    """
    first, second = _classes(a), _classes(b)
    if len(first) != len(second) or not len(first):
        raise UsageError(f"cannot compare {len(first)} predictions with {len(second)}", code="MC240")
    return 100.0 * (first == second).sum().item() / len(first)


def sqnr_db(reference: Tensor, test: Tensor) -> float:
    """Signal to quantisation noise ratio, ``10 log10(sum r^2 / sum (r - t)^2)`` in decibel.

    Infinite for equal tensors; minus infinity where only the reference is all zero.

    Raises:
        UsageError: the shapes differ.
    """
    if reference.shape != test.shape:
        raise UsageError(f"cannot compare shapes {tuple(reference.shape)} and {tuple(test.shape)}", code="MC240")
    signal = reference.double().square().sum().item()
    noise = (reference.double() - test.double()).square().sum().item()
    if noise == 0:
        return math.inf
    return 10 * math.log10(signal / noise) if signal else -math.inf


def _classes(outputs: Tensor) -> Tensor:
    return (outputs.argmax(1) if outputs.ndim == 2 else outputs).cpu()
