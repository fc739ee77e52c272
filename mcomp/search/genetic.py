"""A genetic algorithm over mixed genes: tournaments, simulated binary crossover, survival of the fittest of both ages.

After Holland, "Adaptation in Natural and Artificial Systems" (1975), with the crossover of Deb and Agrawal, "Simulated
Binary Crossover for Continuous Search Space" (Complex Systems 9, 1995).
"""

from __future__ import annotations

from typing import Any

import numpy as np

from mcomp.search.base import Optimizer
from mcomp.search.budgets import Vector
from mcomp.search.genes import Genome

_CROWD = 8.0  # of simulated binary crossover: children near their parents
_RATE = 0.9
_TOWARDS = 0.5
_FAR = 1.0
_MUTATED = 1.5
_STEP = (0.01, 0.3)
_FASTER, _SLOWER = 1.2, 0.88


class Genetic(Optimizer):
    """Parents are won in tournaments of two, children are crossed and mutated, the best of parents and children stay.

    A real gene mutates by a normal step, a whole one by at least one value. The step grows while more than a fifth of
    the children survive and shrinks otherwise (Rechenberg's rule, "Evolutionsstrategie", 1973).
    """

    name = "ga"
    default_population = 20

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self._parents: list[Genome] = []
        self._fitness: Vector = np.empty(0)
        self._step = 0.15

    def _first(self) -> list[Genome]:
        return self._starting(self.population)

    def _following(self, genomes: list[Genome], fitness: Vector) -> list[Genome]:
        old = len(self._parents)
        pool = [*self._parents, *genomes]
        worth = np.concatenate([self._fitness, fitness])
        order = np.argsort(-worth, kind="stable")[: self.population]
        if old:
            born = np.mean(order >= old)
            self._step = float(np.clip(self._step * (_FASTER if born > 0.2 else _SLOWER), *_STEP))
        self._parents = [pool[place] for place in order]
        self._fitness = worth[order]
        points = np.array([self.space.encode(genome) for genome in self._parents])
        taken: set[Genome] = set()
        return [self._fresh(self._child(points), taken) for _ in range(self.population)]

    def _child(self, points: Vector) -> Vector:
        one, other = sorted((self._winner(), self._winner()))
        first, second = points[one], points[other]
        if self.generator.random() < _TOWARDS:
            child = first + self.generator.uniform(0, _FAR, len(first)) * (first - second)
        else:
            child = self._crossed(first, second)
        return self._mutated(child)

    def _winner(self) -> int:
        """The better of two; the parents stand in order."""
        return int(self.generator.integers(len(self._parents), size=2).min())

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

    def _memory(self) -> dict[str, Any]:
        return {
            "parents": [list(genome) for genome in self._parents],
            "step": self._step,
        }

    def _recall(self, memory: dict[str, Any]) -> None:
        self._parents = [tuple(genome) for genome in memory["parents"]]
        self._fitness = np.array([self._known[genome] for genome in self._parents])
        self._step = memory["step"]
