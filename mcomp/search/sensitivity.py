"""What lowering a gene is thought to cost in quality: measured points, or the usual growth of the error."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from mcomp.errors import UsageError
from mcomp.search.budgets import Vector
from mcomp.search.genes import Gene
from mcomp.suggest import did_you_mean, listed

_POINTS = 17


class Sensitivity:
    """A curve per gene: value to loss, never smaller for a smaller value.

    Without measured points the error of bits falls to a quarter with each bit more, as a uniform quantiser's does, and
    that of pruning grows with the square of the share that goes; ``scales`` says how much a layer minds.

    Args:
        genes: of the space.
        scales: layer or ``kind:layer`` to a factor above 0; 1 where nothing is said. The longer name wins.
        points: ``kind:layer`` to value to measured loss, any unit; between two of them the loss is on a line.

    Raises:
        UsageError: MC481, a name that is not in the space; MC480, a scale that is not above 0.
    """

    def __init__(
        self,
        genes: Sequence[Gene],
        scales: Mapping[str, float] | None = None,
        points: Mapping[str, Mapping[float, float]] | None = None,
    ) -> None:
        scales, points = scales or {}, points or {}
        known = {gene.name for gene in genes}
        for name in [*scales, *points]:
            if name not in known and (name in points or name not in {gene.layer for gene in genes}):
                raise UsageError(
                    f"a sensitivity is given for `{name}`, which is not in the space",
                    code="MC481",
                    hint=did_you_mean(name, known) or f"its genes: {listed(sorted(known))}",
                )
        self.curves = [_curve(gene, _scale(gene, scales), points.get(gene.name)) for gene in genes]

    def losses(self, values: Vector) -> Vector:
        """The loss of each gene at its value. Shape ``(genes,)`` to ``(genes,)``."""
        return np.array([np.interp(value, *curve) for value, curve in zip(values, self.curves, strict=True)])

    def loss(self, place: int, value: float) -> float:
        """The loss of one gene at one value."""
        return float(np.interp(value, *self.curves[place]))

    def as_json(self) -> list[Any]:
        """The points of each curve."""
        return [[values.tolist(), losses.tolist()] for values, losses in self.curves]


def _scale(gene: Gene, scales: Mapping[str, float]) -> float:
    scale = float(scales.get(gene.name, scales.get(gene.layer, 1.0)))
    if not 0 < scale < float("inf"):
        raise UsageError(f"`{gene.name}` has the sensitivity {scale:g}", code="MC480", hint="give a number above 0")
    return scale


def _curve(gene: Gene, scale: float, points: Mapping[float, float] | None) -> tuple[Vector, Vector]:
    if points:
        values = np.array(sorted(points), dtype=np.float64)
        losses = np.array([points[value] for value in sorted(points)], dtype=np.float64)
        losses = np.maximum.accumulate(losses[::-1])[::-1]  # noise must not make a lower value look better
    elif gene.whole:
        values = np.arange(gene.low, gene.high + 1)
        losses = scale * 0.25 ** (values - 1)
    else:
        values = np.linspace(gene.low, gene.high, _POINTS)
        losses = scale * (1 - values) ** 2
    return values, losses
