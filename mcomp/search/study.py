"""A search: generations of candidates, each looked at cheaply, the best of them closely."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Protocol

from mcomp.search.base import Candidate, Optimizer
from mcomp.search.genes import Genome
from mcomp.search.optuna_samplers import OptunaOptimizer
from mcomp.search.pareto import front, ranks

#: Of a generation, the part that is looked at closely.
PROMOTED = 0.25
#: Candidates that are asked for at a time of an optimiser that knows no generations.
TOGETHER = 10
ACCURACY = "top1"


@dataclass(frozen=True)
class Trial:
    """One look at a candidate.

    Attributes:
        number: of the candidate, in the order of asking.
        level: ``proxy`` or ``full``.
        genome: one value per gene.
        fitness: top-1 in percent on held-out images; None where the candidate could not be made.
        probability: mean probability of the right answer, in percent.
        error: why not.
        costs: what the candidate costs, by name.
    """

    number: int
    level: str
    genome: Genome
    fitness: float | None
    probability: float | None = None
    error: str = ""
    costs: Mapping[str, float] = field(default_factory=dict)

    def as_dict(self) -> dict[str, Any]:
        """JSON-able."""
        return {**asdict(self), "genome": list(self.genome)}

    @classmethod
    def from_dict(cls, held: Mapping[str, Any]) -> Trial:
        """What :meth:`as_dict` gave."""
        return cls(**{**held, "genome": tuple(held["genome"]), "costs": dict(held["costs"])})

    @property
    def accuracy(self) -> float:
        """What counts of it, in percent: a cheap look has too few images for top-1 to tell two candidates apart."""
        if self.fitness is None or self.probability is None:
            return -math.inf
        return self.probability if self.level == "proxy" else self.fitness

    @property
    def rank(self) -> tuple[float, float, int]:
        """Larger is better: of equally accurate ones the surer, then the first."""
        return self.accuracy, self.probability or 0.0, -self.number


@dataclass(frozen=True)
class Task:
    """A candidate to look at."""

    number: int
    level: str
    genome: Genome

    @property
    def key(self) -> tuple[int, str]:
        """What a task is known by."""
        return self.number, self.level

    def trial(self, fitness: float | None, probability: float | None = None, error: str = "") -> Trial:
        """Its outcome."""
        return Trial(self.number, self.level, self.genome, fitness, probability, error)


class Workers(Protocol):
    """Whoever looks at candidates."""

    def results(self, tasks: Sequence[Task], should_stop: Callable[[], object]) -> Iterator[Trial]:
        """The trials as they come, each task's once; it ends early only where a stop is asked for."""


@dataclass
class Study:
    """A search that goes on from the trials it is given, and makes the same ones with any number of workers.

    A generation is asked for whole; all of it is looked at cheaply, and the best quarter closely. The optimiser is told
    what the cheap look says, so that it compares like with like; the best candidate is that of the best close look.

    Args:
        optimizer: ours, or Optuna's in the same shape.
        budget: candidates in all.
        objectives: ``top1``, and names of costs that are to be small beside it.
        costs: of a genome, by name.
        proxy: False looks closely at each.
        trials: of an earlier run, which are not repeated.
        on_trial: told each new trial.
        should_stop: asked between trials.
        keeps: whether a genome is inside the budgets; one that is not (``greedy`` learns from such) is never the best.
    """

    optimizer: Optimizer | OptunaOptimizer
    budget: int
    objectives: Sequence[str] = (ACCURACY,)
    costs: Callable[[Genome], Mapping[str, float]] = lambda genome: {}
    proxy: bool = True
    trials: list[Trial] = field(default_factory=list)
    on_trial: Callable[[Trial], None] = lambda trial: None
    should_stop: Callable[[], object] = lambda: False
    keeps: Callable[[Genome], bool] = lambda genome: True

    def run(self, workers: Workers) -> bool:
        """Try candidates until the budget is spent or nothing is left; False where a stop came before that.

        What a stop leaves undone is tried by the next run, which gets the trials so far.
        """
        known = {(trial.number, trial.level): trial for trial in self.trials}
        spent, first = 0, "proxy" if self.proxy else "full"
        while spent < self.budget and not self.optimizer.finished:
            generation = self._ask(self.budget - spent)
            if not generation:
                break
            if not self._look(generation, first, known, workers):
                return False
            if self.proxy and not self._look(self._promoted(generation, known), "full", known, workers):
                return False
            for candidate in generation:
                self._tell(candidate, known[candidate.number, first])
            spent += len(generation)
        return True

    @property
    def best(self) -> Trial | None:
        """The most accurate of those looked at closely; of equals the first."""
        return max(self.close, key=lambda trial: trial.rank, default=None)

    @property
    def close(self) -> list[Trial]:
        """Those looked at closely that could be made, and keep the budgets."""
        made = (trial for trial in self.trials if trial.level == "full" and trial.fitness is not None)
        return [trial for trial in made if self.keeps(trial.genome)]

    @property
    def front(self) -> list[Trial]:
        """Of them, those that no other beats in every objective, by falling accuracy."""
        close = self.close
        found = [close[place] for place in front([self.worth(trial) for trial in close])]
        return sorted(found, key=lambda trial: trial.rank, reverse=True)

    def worth(self, trial: Trial) -> tuple[float, ...]:
        """One number per objective, larger is better."""
        if trial.fitness is None:
            return (-math.inf,) * len(self.objectives)
        return tuple(trial.accuracy if name == ACCURACY else -trial.costs[name] for name in self.objectives)

    def _ask(self, left: int) -> list[Candidate]:
        if isinstance(self.optimizer, OptunaOptimizer):
            return self.optimizer.ask(min(left, self.optimizer.population or TOGETHER))
        return self.optimizer.ask(left)

    def _tell(self, candidate: Candidate, trial: Trial) -> None:
        worth = self.worth(trial)
        if len(worth) == 1:
            self.optimizer.tell(candidate, worth[0])
        else:
            assert isinstance(self.optimizer, OptunaOptimizer)  # ours have one objective, which the options see to
            self.optimizer.tell(candidate, worth)

    def _look(
        self, candidates: list[Candidate], level: str, known: dict[tuple[int, str], Trial], workers: Workers
    ) -> bool:
        """Make the trials that are missing; False if a stop came between."""
        tasks = [Task(each.number, level, each.genome) for each in candidates]
        for task in tasks:
            if task.key in known and known[task.key].genome != task.genome:
                # of another study, or of other options: nothing here leads to it, nor to what came after it
                for key in [key for key in known if key[0] >= task.number]:
                    del known[key]
                self.trials = [known[key] for key in sorted(known)]
                break
        missing = [task for task in tasks if task.key not in known]
        for found in workers.results(missing, self.should_stop) if missing else ():
            trial = replace(found, costs=dict(self.costs(found.genome)))
            known[trial.number, trial.level] = trial
            self.trials = [known[key] for key in sorted(known)]
            self.on_trial(trial)
        return all(task.key in known for task in tasks)

    def _promoted(self, generation: list[Candidate], known: Mapping[tuple[int, str], Trial]) -> list[Candidate]:
        looks = [known[each.number, "proxy"] for each in generation]
        usable = [trial for trial in looks if trial.fitness is not None and self.keeps(trial.genome)]
        order = ranks([self.worth(trial) for trial in usable])
        ranked = sorted(zip(order, usable, strict=True), key=lambda one: (-one[0], *one[1].rank), reverse=True)
        chosen = {trial.number for _, trial in ranked[: math.ceil(PROMOTED * len(generation))]}
        return [each for each in generation if each.number in chosen]
