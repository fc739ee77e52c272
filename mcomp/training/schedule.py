"""Learning rate as a pure function of the step, so that a resumed run needs no scheduler state."""

from __future__ import annotations

import math

from mcomp.training.settings import TrainSettings

#: ``one_cycle`` starts at ``lr / 25`` and rises for 30 % of the run (Smith & Topin, arXiv:1708.07120).
ONE_CYCLE_START = 25.0
ONE_CYCLE_RISE = 0.3


def learning_rate(settings: TrainSettings, step: int, steps_per_epoch: int) -> float:
    """The rate of optimiser step ``step``, counted from 0 over the whole run.

    ``multistep`` and ``constant`` hold their value; ``cosine`` and ``one_cycle`` fall to 0 just after the
    last step. Warm-up is linear from ``lr / (warm-up steps)`` to ``lr``; of ``one_cycle`` it is the rise.
    """
    total = settings.epochs * steps_per_epoch
    warmup = settings.warmup_epochs * steps_per_epoch
    if settings.schedule == "one_cycle":
        return settings.lr * _one_cycle(step, total, warmup or ONE_CYCLE_RISE * total)
    if step + 1 < warmup:
        return settings.lr * (step + 1) / warmup
    if settings.schedule == "cosine":
        return settings.lr * _half_cosine((step - warmup) / (total - warmup))
    if settings.schedule == "multistep":
        # the small term keeps 0.1 * 30 * 10 == 30.000000000000004 from coming one step late
        passed = sum(step >= epoch * steps_per_epoch - 1e-6 for epoch in settings.milestone_epochs())
        return settings.lr * settings.gamma**passed
    return settings.lr


def _one_cycle(step: int, total: int, rise: float) -> float:
    if step < rise:
        return 1 / ONE_CYCLE_START + (1 - 1 / ONE_CYCLE_START) * step / rise
    return _half_cosine((step - rise) / (total - rise))


def _half_cosine(share: float) -> float:
    """From 1 at share 0 to 0 at share 1."""
    return 0.5 * (1 + math.cos(math.pi * min(max(share, 0.0), 1.0)))
