"""Particle swarm optimisation with constriction, over mixed genes.

After Kennedy and Eberhart, "Particle Swarm Optimization" (ICNN 1995), and Clerc and Kennedy, "The Particle Swarm:
Explosion, Stability, and Convergence" (IEEE TEVC 6, 2002).
"""

from __future__ import annotations

from typing import Any

import numpy as np

from mcomp.search.base import Optimizer
from mcomp.search.budgets import Vector
from mcomp.search.genes import Genome

_INERTIA, _PULL = 0.7298, 1.49618  # Clerc and Kennedy's constriction for a total pull of 4.1
_FASTEST = 0.3
_INFORMANTS = 4


class ParticleSwarm(Optimizer):
    """Particles fly through the unit cube, pulled to the best place of their own and to that of a few others.

    Whole genes fly like real ones and are read off at the nearest value. A particle's place is moved to its repaired
    genome, so that it does not drift where the budgets forbid.
    """

    name = "pso"
    default_population = 20

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self._places: Vector = np.empty((0, len(self.space)))
        self._speeds: Vector = self._places
        self._bests: Vector = self._places
        self._fitness: Vector = np.empty(0)

    def _first(self) -> list[Genome]:
        genomes = self._starting(self.population)
        self._places = np.array([self.space.encode(genome) for genome in genomes])
        self._speeds = 0.5 * (self.generator.random(self._places.shape) - self._places)
        self._bests = self._places.copy()
        self._fitness = np.full(len(genomes), -np.inf)
        return genomes

    def _following(self, genomes: list[Genome], fitness: Vector) -> list[Genome]:
        better = fitness > self._fitness
        self._bests[better] = self._places[better]
        self._fitness = np.where(better, fitness, self._fitness)
        taken: set[Genome] = set()
        following = []
        for one in range(len(genomes)):
            point = self._flown(one)
            genome = self._fresh(point, taken)
            self._places[one] = self._settled(point, genome)
            following.append(genome)
        return following

    def _flown(self, one: int) -> Vector:
        size = len(self.space)
        informed = self.generator.integers(len(self._places), size=_INFORMANTS)
        leader = max([one, *informed.tolist()], key=lambda other: self._fitness[other])
        own = self.generator.random(size) * (self._bests[one] - self._places[one])
        led = self.generator.random(size) * (self._bests[leader] - self._places[one])
        speed = np.clip(_INERTIA * self._speeds[one] + _PULL * (own + led), -_FASTEST, _FASTEST)
        point = self._places[one] + speed
        outside = (point < 0) | (point > 1)
        self._speeds[one] = np.where(outside, -0.5 * speed, speed)
        moved: Vector = np.clip(point, 0, 1)
        return moved

    def _settled(self, point: Vector, genome: Genome) -> Vector:
        """The place within the genome's part of the cube that is nearest to where the particle flew."""
        middle = self.space.encode(genome)
        half = self.space.bins / 2
        moved: Vector = np.clip(point, middle - half, middle + half)
        return moved

    def _memory(self) -> dict[str, Any]:
        return {
            "places": self._places.tolist(),
            "speeds": self._speeds.tolist(),
            "bests": self._bests.tolist(),
            "fitness": [None if value == -np.inf else value for value in self._fitness.tolist()],
        }

    def _recall(self, memory: dict[str, Any]) -> None:
        shape = (-1, len(self.space))
        self._places = np.array(memory["places"], dtype=np.float64).reshape(shape)
        self._speeds = np.array(memory["speeds"], dtype=np.float64).reshape(shape)
        self._bests = np.array(memory["bests"], dtype=np.float64).reshape(shape)
        self._fitness = np.array([-np.inf if value is None else value for value in memory["fitness"]])
