"""Greedy search by measured sensitivity: lower what loses least per saved cost, then trade step for step.

The one-layer-at-a-time analysis is that of Han et al., "Learning both Weights and Connections for Efficient Neural
Networks" (arXiv:1506.02626); lowering by loss per cost that of Yang et al., "NetAdapt" (arXiv:1804.03230).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from mcomp.search.base import Optimizer
from mcomp.search.budgets import Vector
from mcomp.search.genes import Genome
from mcomp.search.repair import repair
from mcomp.search.sensitivity import Sensitivity
from mcomp.search.space import Space

_RATIOS = 5  # points of a ratio's curve, the largest among them


class Greedy(Optimizer):
    """First every gene is lowered alone, value by value, to learn its curve; these genomes may be over the budgets.

    The curves then say what to lower from the top, and each further generation tries every gene of the best a step
    higher, paid for by the others, and a step lower; it ends when none of that helps. No chance is involved, and
    ``population`` is not used.
    """

    name = "greedy"

    def __init__(self, space: Space, **options: Any) -> None:
        super().__init__(space, **options)
        self._phase = "measure"
        self._points: dict[str, dict[float, float]] = {}
        self._base: Genome = space.top()
        self._measured: Sensitivity | None = None

    @property
    def points(self) -> Mapping[str, Mapping[float, float]]:
        """``kind:layer`` to value to the fitness lost there, all other genes at their largest; empty until measured."""
        return self._points

    def _first(self) -> list[Genome]:
        return [self._base, *(genome for _, _, genome in self._lowered())]

    def _following(self, genomes: list[Genome], fitness: Vector) -> list[Genome]:
        if self._phase == "measure":
            self._learn()
            self._phase = "trade"
            return list(dict.fromkeys([self._mended(self.space.top()), self.space.uniform(), *self._start]))
        if self.best is None or self.best[0] == self._base:
            return []  # nothing that was tried is better
        self._base = self.best[0]
        return self._trades(self._base)

    def _learn(self) -> None:
        finite = [fitness for fitness in self._known.values() if np.isfinite(fitness)]
        top = self._known[self._base] if np.isfinite(self._known[self._base]) else max([*finite, 0.0])
        for place, value, genome in self._lowered():
            curve = self._points.setdefault(self.space.genes[place].name, {self.space.genes[place].high: 0.0})
            curve[value] = max(top - self._known[genome], 0.0)
        self._measured = self._sensitivity()

    def _sensitivity(self) -> Sensitivity:
        """The measured curves; a failed trial counts as the worst that was seen."""
        seen = [loss for curve in self._points.values() for loss in curve.values() if np.isfinite(loss)]
        worst = 10 * max([*seen, 1e-9])
        points = {
            name: {value: loss if np.isfinite(loss) else worst for value, loss in curve.items()}
            for name, curve in self._points.items()
        }
        return Sensitivity(self.space.genes, points=points)

    def _lowered(self) -> list[tuple[int, float, Genome]]:
        """Place, value and genome of every gene lowered alone."""
        found = []
        for place in self.space.free.tolist():
            gene = self.space.genes[place]
            count = int(gene.high - gene.low) if gene.whole else _RATIOS
            for value in np.linspace(gene.high, gene.low, count + 1)[1:].tolist():
                genome = (*self._base[:place], gene.value(value), *self._base[place + 1 :])
                found.append((place, float(genome[place]), genome))
        return found

    def _trades(self, genome: Genome) -> list[Genome]:
        found = []
        for place in self.space.free.tolist():
            gene = self.space.genes[place]
            step = 1.0 if gene.whole else (gene.high - gene.low) / _RATIOS / 2
            for way in (step, -step):
                value = gene.value(genome[place] + way)
                moved = self._mended((*genome[:place], value, *genome[place + 1 :]), held=place)
                found += [moved] if moved != genome else []
        return list(dict.fromkeys(found)) or [genome]

    def _mended(self, genome: Genome, held: int | None = None) -> Genome:
        """Repaired by the measured curves; the gene ``held`` stays where it is if the others can pay for it."""
        assert self._measured is not None
        genes = list(self.space.genes)
        if held is not None and self.space.keeps(
            (*self.space.lowest()[:held], genome[held], *self.space.lowest()[held + 1 :])
        ):
            genes[held] = replace(genes[held], low=genome[held])
        values = np.asarray(genome, dtype=np.float64)
        return self.space.repair(repair(values, genes, self.space.budgets, self._measured).tolist())

    def _counts(self, genome: Genome) -> bool:
        return self.space.keeps(genome)

    def _memory(self) -> dict[str, Any]:
        return {"phase": self._phase, "base": list(self._base)}

    def _recall(self, memory: dict[str, Any]) -> None:
        self._phase = "measure"
        self._base = self.space.top()
        if memory["phase"] != "measure":
            self._learn()
        self._phase, self._base = memory["phase"], tuple(memory["base"])
