"""A search: generations of candidates, each looked at cheaply, the best of them closely."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future
from dataclasses import asdict, dataclass, field
from typing import Any, Protocol

from mcomp.search.base import Candidate, Optimizer
from mcomp.search.genes import Genome

#: Of a generation, the part that is looked at closely.
PROMOTED = 0.25


@dataclass(frozen=True)
class Trial:
    """One look at a candidate.

    Attributes:
        number: of the candidate, in the order of asking.
        level: ``proxy`` or ``full``.
        genome: one value per gene.
        fitness: top-1 in percent on held-out images; None where the candidate could not be made.
        error: why not.
    """

    number: int
    level: str
    genome: Genome
    fitness: float | None
    error: str = ""

    def as_dict(self) -> dict[str, Any]:
        """JSON-able."""
        return {**asdict(self), "genome": list(self.genome)}

    @classmethod
    def from_dict(cls, held: Mapping[str, Any]) -> Trial:
        """What :meth:`as_dict` gave."""
        return cls(held["number"], held["level"], tuple(held["genome"]), held["fitness"], held["error"])


class Workers(Protocol):
    """Whoever tries candidates."""

    def submit(self, candidate: Candidate, level: str) -> Future[Trial]:
        """Begin to try a candidate."""


@dataclass
class Study:
    """A search that goes on from the trials it is given, and makes the same ones with any number of workers.

    A generation is asked for whole; all of it is tried at the cheap level, and the best quarter at the close one. The
    optimiser is told what the cheap level says, so that it compares like with like; the best candidate is that of the
    best close look.

    Args:
        optimizer: ours, or Optuna's in the same shape.
        budget: candidates in all.
        proxy: False looks closely at each.
        trials: of an earlier run, which are not repeated.
        on_trial: told each new trial.
        should_stop: asked between trials.
    """

    optimizer: Optimizer
    budget: int
    proxy: bool = True
    trials: list[Trial] = field(default_factory=list)
    on_trial: Callable[[Trial], None] = lambda trial: None
    should_stop: Callable[[], bool] = lambda: False

    def run(self, workers: Workers) -> list[Trial]:
        """Try candidates until the budget is spent or nothing is left; all trials, in the order of their numbers.

        A stop leaves what is running to be tried again.
        """
        known = {(trial.number, trial.level): trial for trial in self.trials}
        spent = 0
        while spent < self.budget and not self.optimizer.finished and not self.should_stop():
            generation = self.optimizer.ask(self.budget - spent)
            if not generation:
                break
            first = "proxy" if self.proxy else "full"
            looks = self._look(generation, first, known, workers)
            if looks is None:
                break
            if self.proxy:
                promoted = self._promoted(generation, looks)
                if self._look(promoted, "full", known, workers) is None:
                    break
            for candidate in generation:
                self.optimizer.tell(candidate, worth(looks[candidate.number]))
            spent += len(generation)
        self.trials = [known[key] for key in sorted(known)]
        return self.trials

    @property
    def best(self) -> Trial | None:
        """The best of those looked at closely; of equals the first."""
        close = [trial for trial in self.trials if trial.level == "full" and trial.fitness is not None]
        return max(close, key=lambda trial: (worth(trial), -trial.number), default=None)

    def _look(
        self, candidates: list[Candidate], level: str, known: dict[tuple[int, str], Trial], workers: Workers
    ) -> dict[int, Trial] | None:
        """The trials of all candidates, or None if a stop came between."""
        missing = [each for each in candidates if not _same(known.get((each.number, level)), each)]
        for trial in _results(missing, level, workers, self.should_stop):
            known[trial.number, level] = trial
            self.on_trial(trial)
        found = {each.number: known[each.number, level] for each in candidates if (each.number, level) in known}
        return found if len(found) == len(candidates) else None

    def _promoted(self, generation: list[Candidate], looks: Mapping[int, Trial]) -> list[Candidate]:
        usable = [each for each in generation if looks[each.number].fitness is not None]
        ranked = sorted(usable, key=lambda each: (-worth(looks[each.number]), each.number))
        return sorted(ranked[: math.ceil(PROMOTED * len(generation))], key=lambda each: each.number)


def worth(trial: Trial) -> float:
    """What an optimiser is told."""
    return -math.inf if trial.fitness is None else trial.fitness


def _same(trial: Trial | None, candidate: Candidate) -> bool:
    return trial is not None and trial.genome == candidate.genome


def _results(
    candidates: list[Candidate], level: str, workers: Workers, should_stop: Callable[[], bool]
) -> Iterator[Trial]:
    pending = [workers.submit(candidate, level) for candidate in candidates]
    for place, future in enumerate(pending):
        if should_stop():
            for left in pending[place:]:
                left.cancel()
            return
        yield future.result()
