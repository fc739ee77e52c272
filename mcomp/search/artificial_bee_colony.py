"""Artificial bee colony over mixed genes.

After Karaboga and Basturk, "A powerful and efficient algorithm for numerical function optimization: artificial bee
colony (ABC) algorithm" (JOGO 39, 2007), with the pull to the best source of Zhu and Kwong, "Gbest-guided artificial bee
colony algorithm" (AMC 217, 2010), and several genes at a time as in Akay and Karaboga, "A modified Artificial Bee
Colony algorithm for real-parameter optimization" (Information Sciences 192, 2012).
"""

from __future__ import annotations

from typing import Any

import numpy as np

from mcomp.search.base import Optimizer
from mcomp.search.budgets import Vector
from mcomp.search.genes import Genome

_CHANGED = 0.15
_PULL = 1.5


class ArtificialBeeColony(Optimizer):
    """Food sources are visited by every employed bee, then by onlookers who prefer rich ones; poor ones are left.

    A source that no visit has bettered ``limit`` times is replaced by a random one, found by a scout; the best stays.
    """

    name = "abc"
    default_population = 20

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self._sources: list[Genome] = []
        self._visited: list[int] = []
        self._trials: list[int] = []
        self._onlooking = False

    @property
    def limit(self) -> int:
        """Visits without gain after which a source is given up."""
        return max(20, 2 * len(self.space))

    def _first(self) -> list[Genome]:
        return self._starting(self.population)

    def _following(self, genomes: list[Genome], fitness: Vector) -> list[Genome]:
        if not self._sources:
            self._sources, self._trials = list(genomes), [0] * len(genomes)
        else:
            self._weigh(genomes, fitness)
        worth = np.array([self._known[genome] for genome in self._sources])
        self._visited = self._onlookers(worth) if self._onlooking else list(range(len(self._sources)))
        self._onlooking = not self._onlooking
        points = np.array([self.space.encode(genome) for genome in self._sources])
        best = points[int(np.argmax(worth))]
        taken: set[Genome] = set()
        worn = int(np.argmax(self._trials))
        following = []
        for source in self._visited:
            scouted = source == worn and self._trials[source] > self.limit and source != int(np.argmax(worth))
            if scouted:
                self._trials[source] = -1  # whatever the scout finds is taken
                point = self.space.encode(self.space.random(self.generator))
                worn = -1
            else:
                point = self._neighbour(source, points, best)
            following.append(self._fresh(point, taken))
        return following

    def _weigh(self, genomes: list[Genome], fitness: Vector) -> None:
        for source, genome, value in zip(self._visited, genomes, fitness, strict=True):
            scouted = self._trials[source] == -1
            if scouted or value > self._known[self._sources[source]]:
                self._sources[source], self._trials[source] = genome, 0
            else:
                self._trials[source] += 1

    def _onlookers(self, worth: Vector) -> list[int]:
        """Sources in proportion to their rank: fitness may have any sign and scale."""
        ranks = np.argsort(np.argsort(worth, kind="stable"), kind="stable") + 1.0
        drawn = self.generator.choice(len(worth), size=len(worth), p=ranks / ranks.sum())
        return [int(source) for source in drawn]

    def _neighbour(self, source: int, points: Vector, best: Vector) -> Vector:
        size = len(best)
        here = points[source]
        other = points[(source + 1 + int(self.generator.integers(len(points) - 1))) % len(points)]
        chosen = self.generator.random(size) < _CHANGED
        chosen[self.generator.integers(size)] = True
        away = self.generator.uniform(-1, 1, size) * (here - other) + self.generator.uniform(0, _PULL, size) * (
            best - here
        )
        moved: Vector = np.clip(here + chosen * away, 0, 1)
        return moved

    def _memory(self) -> dict[str, Any]:
        return {
            "sources": [list(genome) for genome in self._sources],
            "visited": self._visited,
            "trials": self._trials,
            "onlooking": self._onlooking,
        }

    def _recall(self, memory: dict[str, Any]) -> None:
        self._sources = [tuple(genome) for genome in memory["sources"]]
        self._visited, self._trials = list(memory["visited"]), list(memory["trials"])
        self._onlooking = memory["onlooking"]
