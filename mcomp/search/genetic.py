"""A genetic algorithm over mixed genes: crossover by line and by gene, mutation, one-to-one survival.

After Holland, "Adaptation in Natural and Artificial Systems" (1975); a child competes with its own parent as in
Mahfoud, "Crowding and preselection revisited" (PPSN II, 1992), which keeps the population apart. One crossover is the
simulated binary one of Deb and Agrawal (Complex Systems 9, 1995), the other goes towards one of the best and along a
difference of two others, as in Zhang and Sanderson, "JADE: Adaptive Differential Evolution" (IEEE TEVC 13, 2009).
"""

from __future__ import annotations

from typing import Any

import numpy as np

from mcomp.search.base import Optimizer
from mcomp.search.budgets import Vector
from mcomp.search.genes import Genome

_CROWD = 8.0  # of simulated binary crossover: children near their parents
_TOWARDS = 0.7  # share of the children that are crossed along lines
_ELITE = 0.25  # share of the parents that count as the best
_LENGTH = (0.4, 1.0)
_CROSSED = 0.8  # share of the genes
_MUTATED = 1.5  # genes, in the mean
_STEP = (0.01, 0.3)
_FASTER, _SLOWER = 1.2, 0.88


class Genetic(Optimizer):
    """Every parent has a child with one of the best; the child takes its parent's place if it is better.

    A real gene mutates by a normal step, a whole one by at least one value. The step grows while more than a fifth of
    the children survive and shrinks otherwise (Rechenberg's rule, "Evolutionsstrategie", 1973).
    """

    name = "ga"
    default_population = 14

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self._parents: list[Genome] = []
        self._step = 0.15

    def _first(self) -> list[Genome]:
        return self._starting(self.population)

    def _following(self, genomes: list[Genome], fitness: Vector) -> list[Genome]:
        if self._parents:
            born = [value > self._known[parent] for parent, value in zip(self._parents, fitness, strict=True)]
            pairs = zip(self._parents, genomes, born, strict=True)
            self._parents = [child if better else parent for parent, child, better in pairs]
            self._step = float(np.clip(self._step * (_FASTER if np.mean(born) > 0.2 else _SLOWER), *_STEP))
        else:
            self._parents = list(genomes)
        points = np.array([self._point(genome) for genome in self._parents])
        ranked = points[np.argsort([-self._known[genome] for genome in self._parents], kind="stable")]
        best = ranked[: max(2, int(_ELITE * len(ranked)))]
        taken: set[Genome] = set()
        return [self._fresh(self._child(parent, best, points), taken) for parent in points]

    def _child(self, parent: Vector, best: Vector, points: Vector) -> Vector:
        mate = best[self.generator.integers(len(best))]
        if self.generator.random() >= _TOWARDS:
            return self._mutated(self._crossed(parent, mate))
        child = self._led(parent, mate, points)
        return child if self.generator.random() < 0.5 else self._mutated(child)

    def _led(self, parent: Vector, mate: Vector, points: Vector) -> Vector:
        """Towards the mate and along the difference of two others; half of the way back where that leaves the cube."""
        one, other = points[self.generator.integers(len(points), size=2)]
        length = self.generator.uniform(*_LENGTH)
        child = parent + length * (mate - parent) + length * (one - other)
        child = np.where(child < 0, parent / 2, np.where(child > 1, (1 + parent) / 2, child))
        led: Vector = np.where(self.generator.random(len(parent)) < _CROSSED, child, parent)
        return led

    def _crossed(self, first: Vector, second: Vector) -> Vector:
        size = len(first)
        drawn = self.generator.random(size)
        spread = np.where(drawn < 0.5, 2 * drawn, 1 / (2 * (1 - drawn))) ** (1 / (_CROWD + 1))
        side = np.where(self.generator.random(size) < 0.5, 1.0, -1.0)
        blended = 0.5 * ((first + second) + side * spread * (first - second))
        moved: Vector = np.clip(np.where(self.generator.random(size) < 0.5, blended, first), 0, 1)
        return moved

    def _mutated(self, point: Vector) -> Vector:
        size, bins = len(point), self.space.bins
        chosen = self.generator.random(size) < _MUTATED / size
        away = self._step * self.generator.normal(size=size)
        away = np.where(bins > 0, np.sign(away) * np.maximum(np.abs(away), bins), away)
        moved: Vector = np.clip(point + chosen * away, 0, 1)
        return moved

    def _kept(self) -> list[Genome]:
        return self._parents

    def _memory(self) -> dict[str, Any]:
        return {"parents": [list(genome) for genome in self._parents], "step": self._step}

    def _recall(self, memory: dict[str, Any]) -> None:
        self._parents = [tuple(genome) for genome in memory["parents"]]
        self._step = memory["step"]
