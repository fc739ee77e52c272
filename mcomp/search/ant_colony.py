"""Ant colony optimisation for real and ordinal genes (ACO_R).

After Socha and Dorigo, "Ant colony optimization for continuous domains" (EJOR 185, 2008), with the ordinal variables of
Liao et al., "Ant Colony Optimization for Mixed-Variable Optimization Problems" (IEEE TEVC 18, 2014).
"""

from __future__ import annotations

from typing import Any

import numpy as np

from mcomp.search.base import Optimizer
from mcomp.search.budgets import Vector
from mcomp.search.genes import Genome

_LOCALITY = 0.1  # q: how much the best solutions of the archive are preferred
_EVAPORATION = 0.65  # xi: how wide the ants scatter
_ARCHIVE = 3  # times the ants of a generation


class AntColony(Optimizer):
    """Ants choose a solution of an archive by its rank and scatter around it, as wide as the archive is.

    A whole gene scatters by no less than a part of its bin, so that the colony cannot freeze on one value.
    """

    name = "aco"
    default_population = 16

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self._archive: list[Genome] = []

    def _first(self) -> list[Genome]:
        return self._starting(_ARCHIVE * self.population)

    def _following(self, genomes: list[Genome], fitness: Vector) -> list[Genome]:
        worth = dict(zip(genomes, fitness.tolist(), strict=True))
        worth.update((genome, self._known[genome]) for genome in self._archive)
        pool = list(dict.fromkeys([*self._archive, *genomes]))
        pool.sort(key=lambda genome: -worth[genome])
        self._archive = pool[: _ARCHIVE * self.population]
        points = np.array([self.space.encode(genome) for genome in self._archive])
        ranks = np.arange(len(points))
        weights = np.exp(-0.5 * (ranks / (_LOCALITY * len(points))) ** 2)
        weights /= weights.sum()
        taken: set[Genome] = set()
        return [self._fresh(self._ant(points, weights), taken) for _ in range(self.population)]

    def _ant(self, points: Vector, weights: Vector) -> Vector:
        guide = points[self.generator.choice(len(points), p=weights)]
        scatter = _EVAPORATION * np.abs(points - guide).sum(0) / max(len(points) - 1, 1)
        scatter = np.maximum(scatter, 0.35 * self.space.bins)
        moved: Vector = np.clip(guide + scatter * self.generator.normal(size=len(guide)), 0, 1)
        return moved

    def _memory(self) -> dict[str, Any]:
        return {"archive": [list(genome) for genome in self._archive]}

    def _recall(self, memory: dict[str, Any]) -> None:
        self._archive = [tuple(genome) for genome in memory["archive"]]
