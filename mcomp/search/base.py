"""What every optimiser of ours is: generations of candidates, asked for in any number and told of in any order."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from mcomp.errors import UsageError
from mcomp.search.budgets import Vector
from mcomp.search.genes import Genome
from mcomp.search.space import Space

_FAILED = "failed"
_TRIES = 24
_QUIET = 8  # generations without a genome that is not known: the space is used up, or as good as


@dataclass(frozen=True)
class Candidate:
    """A genome to try.

    Attributes:
        number: counts from 0 in the order of asking; the same in every run with the same seed.
        genome: one value per gene of the space.
    """

    number: int
    genome: Genome


class Optimizer(ABC):
    """Ask for candidates, tell their fitness, larger is better.

    A generation depends on the seed and on the fitness of those before it, not on who tried them when: any number of
    workers sees the same candidates. ``ask`` gives fewer than wanted, or none, while the rest of a generation is out.
    No genome is asked for twice.

    Args:
        space: where to search.
        seed: of all chance.
        population: candidates of a generation, more or less; the algorithm's own number without it.
        start: genomes to begin with, beside the uniform and the greedy one of the space; they are repaired.

    Attributes:
        best: the genome of the largest fitness so far, and that fitness.
    """

    name: ClassVar[str]
    default_population: ClassVar[int] = 20

    def __init__(
        self, space: Space, *, seed: int = 0, population: int | None = None, start: Sequence[Sequence[float]] = ()
    ) -> None:
        self.space = space
        self.population = population or self.default_population
        if self.population < 4:
            raise UsageError(
                f"`{self.name}` with a population of {self.population}",
                code="MC483",
                hint="4 or more, 20 to 50 as a rule",
            )
        self.generator = np.random.default_rng(seed)
        self.best: tuple[Genome, float] | None = None
        self._known: dict[Genome, float] = {}
        self._told: dict[int, Genome] = {}
        self._plan: list[Genome] = []
        self._open: dict[int, Genome] = {}
        self._waiting: list[int] = []
        self._next = 0
        self._used_up = False
        self._start = [space.repair(genome) for genome in start]

    @property
    def finished(self) -> bool:
        """True when nothing is left that has not been tried."""
        return self._used_up

    def ask(self, n: int = 1) -> list[Candidate]:
        """Up to ``n`` candidates; fewer while the rest of the generation has not been told."""
        if not self._plan and not self._used_up:
            self._lay_out(self._first())
        given, self._waiting = self._waiting[:n], self._waiting[n:]
        return [Candidate(number, self._open[number]) for number in given]

    def tell(self, candidate: Candidate, fitness: float) -> bool:
        """Report a candidate's fitness; ``-inf`` where it could not be tried.

        Returns:
            Whether it counted: a candidate counts once, however many workers report it.

        Raises:
            UsageError: MC483, the fitness is not a number, or this candidate was never asked for.
        """
        number, genome = candidate.number, tuple(candidate.genome)
        if math.isnan(fitness) or fitness == math.inf:
            raise UsageError(
                f"candidate {number} has the fitness {fitness}",
                code="MC483",
                hint="tell -inf of one that could not be tried",
            )
        if self._told.get(number) == genome:
            return False
        if self._open.get(number) != genome:
            raise UsageError(
                f"candidate {number} was not asked for",
                code="MC483",
                why="its number or its genome is another",
                hint="tell what `ask` gave, of the same study",
            )
        del self._open[number]
        if number in self._waiting:  # told from a log, before it was asked for again
            self._waiting.remove(number)
        self._told[number] = genome
        self._known[genome] = float(fitness)
        if math.isfinite(fitness) and self._counts(genome) and (self.best is None or fitness > self.best[1]):
            self.best = (genome, float(fitness))
        if not self._open:
            self._advance()
        return True

    def state(self) -> dict[str, Any]:
        """Everything, as JSON holds it, in the middle of a generation too."""
        return {
            "algorithm": self.name,
            "space": self.space.fingerprint(),
            "population": self.population,
            "generator": self.generator.bit_generator.state,
            "plan": [list(genome) for genome in self._plan],
            "open": {str(number): list(genome) for number, genome in self._open.items()},
            "told": {
                str(number): [list(genome), _written(self._known[genome])] for number, genome in self._told.items()
            },
            "next": self._next,
            "used_up": self._used_up,
            "memory": self._memory(),
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from a state. Candidates that were out are given out again: whoever tried them may be gone.

        Raises:
            UsageError: MC484, the state is of another algorithm, space or population.
        """
        mine = {"algorithm": self.name, "space": self.space.fingerprint(), "population": self.population}
        for key, value in mine.items():
            if state.get(key) != value:
                raise UsageError(
                    f"the state is of another study: its {key} is {state.get(key)!r}, here it is {value!r}",
                    code="MC484",
                    hint="go on with the options it was begun with, or begin a new one",
                )
        self.generator.bit_generator.state = state["generator"]
        self._plan = [tuple(genome) for genome in state["plan"]]
        self._open = {int(number): tuple(genome) for number, genome in state["open"].items()}
        told = {int(number): (tuple(genome), _read(fitness)) for number, (genome, fitness) in state["told"].items()}
        self._told = {number: genome for number, (genome, _) in told.items()}
        self._known = dict(told.values())
        self._waiting = sorted(self._open)
        self._next, self._used_up = state["next"], state["used_up"]
        tried = [(genome, fitness) for genome, fitness in self._known.items() if self._counts(genome)]
        tried = [(genome, fitness) for genome, fitness in tried if math.isfinite(fitness)]
        self.best = max(tried, key=lambda one: one[1]) if tried else None
        self._recall(state["memory"])

    @abstractmethod
    def _first(self) -> list[Genome]:
        """The first generation."""

    @abstractmethod
    def _following(self, genomes: list[Genome], fitness: Vector) -> list[Genome]:
        """The generation after one whose fitness is known. Shape of ``fitness``: ``(genomes,)``."""

    @abstractmethod
    def _memory(self) -> dict[str, Any]:
        """What the algorithm remembers between generations, as JSON holds it."""

    @abstractmethod
    def _recall(self, memory: dict[str, Any]) -> None:
        """Take up what ``_memory`` wrote."""

    def _counts(self, genome: Genome) -> bool:
        """Whether a genome may be the best: all that an algorithm asks for are inside the budgets, as a rule."""
        return True

    def _starting(self, n: int) -> list[Genome]:
        """The given genomes, the uniform and the greedy one, and random ones: ``n`` in all, none twice if possible."""
        chosen = list(dict.fromkeys([*self._start, self.space.uniform(), self.space.greedy()]))[:n]
        for _ in range(_TRIES * n):
            if len(chosen) == n:
                break
            genome = self.space.random(self.generator)
            if genome not in chosen:
                chosen.append(genome)
        return chosen

    def _fresh(self, point: Vector, taken: set[Genome]) -> Genome:
        """The genome at a point of the cube or, where it is known or taken, one near it that is not.

        Each try moves a few more of the genes, by a bit or by a few percent of a ratio's range.
        """
        genome = self.space.decode(point)
        for tried in range(_TRIES):
            if genome not in self._known and genome not in taken:
                break
            moved = self.generator.random(len(point)) < (1.0 + tried / 4) / len(point)
            away = np.maximum(self.space.bins, 0.05) * self.generator.normal(size=len(point)) * (1 + tried / 8)
            away = np.where(self.space.bins > 0, np.sign(away) * np.maximum(np.abs(away), self.space.bins), away)
            genome = self.space.decode(np.clip(point + moved * away, 0, 1))
        taken.add(genome)
        return genome

    def _lay_out(self, genomes: list[Genome]) -> None:
        self._plan = genomes
        for genome in dict.fromkeys(genomes):
            if genome not in self._known:
                self._open[self._next] = genome
                self._waiting.append(self._next)
                self._next += 1
        if not self._open:
            self._advance()

    def _advance(self) -> None:
        """Lay out generations until one holds a genome that is not known."""
        for _ in range(_QUIET):
            fitness = np.array([self._known[genome] for genome in self._plan])
            following = self._following(self._plan, fitness)
            if not following:
                break
            if any(genome not in self._known for genome in following):
                self._lay_out(following)
                return
            self._plan = following
        self._used_up = True


def _written(fitness: float) -> float | str:
    return fitness if math.isfinite(fitness) else _FAILED


def _read(fitness: float | str) -> float:
    return -math.inf if fitness == _FAILED else float(fitness)
