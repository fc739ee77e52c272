"""A task becomes a trial: the genome named, the network made, its accuracy measured on one thread."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from mcomp.errors import McompError
from mcomp.metrics.threads import one_thread
from mcomp.search.fitness import LEVELS, Choice, Fitness
from mcomp.search.genes import Genome
from mcomp.search.study import Task, Trial

#: What a network's own code raises when it cannot take the widths that a candidate gives it.
_BY_THE_NETWORK = (RuntimeError, ValueError, LookupError, ArithmeticError, TypeError, AssertionError)


@dataclass
class Evaluator:
    """Tries candidates in this process, always on one thread: any machine with the same CPU sees the same figures.

    Args:
        fitness: of the network.
        genes: layer and kind of each gene.
    """

    fitness: Fitness
    genes: Sequence[tuple[str, str]]

    def choice(self, genome: Genome) -> Choice:
        """Layer to kind to value."""
        named: dict[str, dict[str, float]] = {}
        for (layer, kind), value in zip(self.genes, genome, strict=True):
            named.setdefault(layer, {})[kind] = value
        return named

    def __call__(self, task: Task) -> Trial:
        """Try one; a candidate that cannot be made is a trial without fitness, and says why."""
        try:
            with one_thread():
                return task.trial(*self.fitness(self.choice(task.genome), LEVELS[task.level]))
        except (McompError, *_BY_THE_NETWORK) as error:
            return task.trial(None, error=f"{type(error).__name__}: {error}".partition("\n")[0][:300])

    def results(self, tasks: Sequence[Task], should_stop: Callable[[], object]) -> Iterator[Trial]:
        """One after the other, as :class:`mcomp.search.study.Workers` has it."""
        for task in tasks:
            if should_stop():
                return
            yield self(task)
