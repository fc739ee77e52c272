"""How the strengths of channels are spread: what the history of a sparse training keeps per epoch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

#: A strength below this counts as pulled to zero in the reports.
SMALL = 1e-2

#: Bars of a histogram.
BINS = 32


def distribution(quantity: str, found: Mapping[str, Tensor]) -> dict[str, Any]:
    """Figures for the history of an epoch.

    Args:
        quantity: what is spread, which starts the names of the figures: ``gamma``, ``norm``.
        found: layer or group to its ``[channels]`` strengths, none below 0.

    Returns:
        ``<quantity>_quantiles`` (0, 25, 50, 75, 100 %), ``<quantity>_small`` the percentage below 1e-2,
        ``<quantity>_histogram`` with ``counts`` of 32 equal bins from 0 to ``upper``, and ``collapsed`` the names of
        those in which all are small.
    """
    plain = {name: values.detach().float().cpu() for name, values in found.items()}
    everything = torch.cat([torch.empty(0), *plain.values()])
    everything = everything[everything.isfinite()]  # the loop speaks of a training that diverged
    if not len(everything):
        return {f"{quantity}_quantiles": [], f"{quantity}_small": 0.0, "collapsed": []}
    quantiles = everything.quantile(torch.tensor([0.0, 0.25, 0.5, 0.75, 1.0]))
    upper = max(float(everything.max()), SMALL)
    return {
        f"{quantity}_quantiles": [float(value) for value in quantiles],
        f"{quantity}_small": 100.0 * float((everything < SMALL).float().mean()),
        f"{quantity}_histogram": {"upper": upper, "counts": _counts(everything, upper)},
        "collapsed": [name for name, values in plain.items() if bool((values < SMALL).all())],
    }


def _counts(values: Tensor, upper: float) -> list[int]:
    counts: list[int] = torch.histc(values, BINS, 0.0, upper).long().tolist()
    return counts
