"""What a genome may cost: mean bits weighted by size, MACs, parameters, bytes, milliseconds."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mcomp.errors import UsageError
from mcomp.search.genes import Gene, Kind
from mcomp.suggest import did_you_mean, listed

Vector = NDArray[np.float64]
#: ``(n, genes)`` to ``(n,)``: what each of ``n`` genomes costs. Lowering a gene must never raise it.
Cost = Callable[[Vector], Vector]

#: A budget is kept where the cost is at most this much of it above: the rounding of a sum, not more.
TOLERANCE = 1e-9


@dataclass(frozen=True)
class Budget:
    """A bound on what a genome costs.

    Attributes:
        name: the option that sets it, such as ``avg_bit_weights`` or ``macs``.
        limit: largest cost.
        cost: ``(n, genes)`` to ``(n,)``; falls, or stays, as any gene falls.
        slopes: ``(genes,)`` cost per unit of each gene where the cost is linear: no need to call ``cost`` then.
    """

    name: str
    limit: float
    cost: Cost
    slopes: Vector | None = field(default=None, compare=False)

    def __post_init__(self) -> None:
        if not math.isfinite(self.limit) or self.limit <= 0:
            raise UsageError(
                f"the budget `{self.name}` is {self.limit:g}", code="MC482", hint="give a finite number above 0"
            )

    @property
    def bound(self) -> float:
        """The limit and the rounding that is forgiven."""
        return self.limit * (1 + TOLERANCE)

    def value(self, values: Vector) -> float:
        """What one genome costs. Shape ``(genes,)``."""
        return float(self.cost(values[None])[0])

    def savings(self, values: Vector, lowered: Vector, places: NDArray[np.intp]) -> Vector:
        """What is saved as each of the genes at ``places``, alone, falls to its entry of ``lowered``.

        Shape:
            ``(genes,)``, ``(genes,)`` and ``(k,)`` to ``(k,)``.
        """
        if self.slopes is not None:
            linear: Vector = self.slopes[places] * (values - lowered)[places]
            return linear
        rows = np.repeat(values[None], len(places), axis=0)
        rows[np.arange(len(places)), places] = lowered[places]
        saved: Vector = self.value(values) - self.cost(rows)
        return saved


def average_bits(
    genes: Sequence[Gene], kind: Kind, sizes: Mapping[str, float], limit: float, *, name: str = ""
) -> Budget:
    """Bound the mean bits of all layers, each weighted by its size: ``sum(b_l s_l) / sum(s_l) <= limit``.

    Pinned layers count. For ``w_bits`` the sizes are numbers of weights (``avg_bit_weights``), for ``a_bits`` numbers
    of input elements of one sample (``avg_bit_fm``).

    Raises:
        UsageError: MC482, a layer has no size, or there are no such genes.
    """
    name = name or {"w_bits": "avg_bit_weights", "a_bits": "avg_bit_fm"}.get(kind, f"avg_{kind}")
    layers = [gene.layer for gene in genes if gene.kind == kind]
    if not layers:
        raise UsageError(
            f"`{name}` bounds `{kind}`, which is not searched", code="MC482", hint=f"give `{kind}` a range, or drop it"
        )
    if missing := [layer for layer in layers if not sizes.get(layer, 0) > 0]:
        raise UsageError(
            f"`{name}`: no size above 0 is known of {listed(missing)}",
            code="MC482",
            hint=did_you_mean(missing[0], sizes) or "give every layer of the space its size",
        )
    total = math.fsum(sizes[layer] for layer in layers)
    slopes = np.array([sizes[gene.layer] / total if gene.kind == kind else 0.0 for gene in genes])
    return Budget(name, limit, lambda rows: np.asarray(rows @ slopes), slopes)


def cost_budget(name: str, limit: float, cost: Callable[[Vector], Any], *, rows: bool = True) -> Budget:
    """Bound a cost of any form: MACs, parameters, bytes, a latency from a table.

    Args:
        name: the option that sets it.
        limit: largest cost, in the unit of ``cost``.
        cost: ``(n, genes)`` to ``(n,)``; with ``rows=False`` one genome, ``(genes,)``, to one
            number. Lowering a gene must never raise it.
        rows: whether ``cost`` takes many genomes at a time.
    """
    if rows:
        return Budget(name, limit, cost)
    return Budget(name, limit, lambda values: np.array([float(cost(row)) for row in values]))
