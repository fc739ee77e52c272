"""A study makes the same trials however often it is stopped, and whoever answers in which order."""

from __future__ import annotations

import json
import math
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any, ClassVar

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mcomp.search import ALGORITHMS, Genome, Space, average_bits, build_optimizer, cost_budget, genes_of
from mcomp.search.budgets import Vector
from mcomp.search.pareto import dominates, front, ranks
from mcomp.search.study import Study, Task, Trial

OURS = ("ga", "pso", "abc", "aco", "greedy")
BUDGET = 16
SIZES = {"stem": 100, "middle": 9000, "head": 700}


class Remembering(Space):
    """The same points are decoded again and again here."""

    seen: ClassVar[dict[tuple[str, bytes], Genome]] = {}

    def decode(self, point: Vector) -> Genome:
        key = self.fingerprint(), np.asarray(point, dtype=np.float64).tobytes()
        if key not in self.seen:
            self.seen[key] = super().decode(point)
        return self.seen[key]


def space_of(limit: float = 4.0) -> Space:
    genes = genes_of(list(SIZES), w_bits=(3, 5), keep=(0.5, 1.0), pins={"head": {"keep": 1.0}}, steps={"middle": 0.25})
    budgets = [
        average_bits(genes, "w_bits", SIZES, limit),
        cost_budget("macs", 0.8, lambda rows: rows[:, 1] * rows[:, 3]),
    ]
    return Remembering(genes, budgets)


SPACE = space_of()


def quality(genome: Genome) -> float:
    return -sum(0.25**value if value > 1 else (1 - value) ** 2 for value in genome)


def sampled(name: str) -> str:
    if name not in OURS:
        pytest.importorskip("optuna")
    if name == "cmaes":
        pytest.importorskip("cmaes")
    return name


class Fake:
    """Answers with a formula, in any order; stops after so many answers; every third genome of some kind fails."""

    def __init__(self, order: int | None = None, failing: bool = False) -> None:
        self.order, self.failing, self.asked = order, failing, list[Task]()

    def results(self, tasks: Sequence[Task], should_stop: Callable[[], object]) -> Iterator[Trial]:
        todo = list(tasks)
        if self.order is not None:
            random.Random(self.order).shuffle(todo)
        for task in todo:
            if should_stop():
                return
            self.asked.append(task)
            yield self.answer(task)

    def answer(self, task: Task) -> Trial:
        if self.failing and sum(task.genome) % 1 < 0.3:
            return task.trial(None, error="no such width")
        noise = 0.3 * math.sin(1000 * sum(task.genome)) if task.level == "proxy" else 0.0
        sure = 50 + quality(task.genome) + noise
        return task.trial(float(round(sure)) if task.level == "proxy" else sure, sure)


def study_of(name: str, trials: Sequence[Trial] = (), **options: Any) -> Study:
    several = len(options.get("objectives", ["top1"]))
    if several > 1:
        from mcomp.search import OptunaOptimizer

        optimizer: Any = OptunaOptimizer(name, SPACE, seed=5, population=5, objectives=several)
    else:
        optimizer = build_optimizer(name, SPACE, seed=5, population=5)
    return Study(optimizer, BUDGET, trials=list(trials), **{"costs": SPACE.costs, "keeps": SPACE.keeps, **options})


def written(trials: Sequence[Trial]) -> list[Trial]:
    """Through a file and back."""
    return [Trial.from_dict(json.loads(json.dumps(trial.as_dict()))) for trial in trials]


@pytest.mark.parametrize("name", ALGORITHMS)
@pytest.mark.parametrize("proxy", [True, False])
def test_a_study_stopped_at_any_trial_goes_on_to_the_same_trials(name: str, proxy: bool) -> None:
    sampled(name)
    whole = study_of(name, proxy=proxy)
    assert whole.run(Fake(failing=True))
    steps = 1 if name in OURS else 5  # the samplers take their time
    for stop in range(0, len(whole.trials), steps):
        seen: list[Trial] = []
        first = study_of(
            name, proxy=proxy, on_trial=seen.append, should_stop=lambda seen=seen, stop=stop: len(seen) >= stop
        )
        assert not first.run(Fake(failing=True, order=stop))
        assert len(first.trials) == stop
        again, workers = study_of(name, written(first.trials), proxy=proxy), Fake(failing=True, order=stop + 1)
        assert again.run(workers)
        assert again.trials == whole.trials
        assert again.best == whole.best
        assert again.front == whole.front
        assert len(workers.asked) == len(whole.trials) - stop  # nothing is tried twice


@pytest.mark.parametrize("name", OURS)
def test_a_study_stopped_after_every_trial_still_ends_with_the_same_ones(name: str) -> None:
    whole = study_of(name)
    assert whole.run(Fake())
    trials: list[Trial] = []
    for _ in whole.trials:
        study = study_of(name, trials)
        known = len(trials)
        study.should_stop = lambda study=study, known=known: len(study.trials) > known
        study.run(Fake())
        trials = written(study.trials)
    assert trials == whole.trials


@pytest.mark.parametrize("name", ALGORITHMS)
def test_the_order_of_answers_changes_nothing(name: str) -> None:
    sampled(name)
    trials = []
    for order in (None, 1, 2):
        study = study_of(name)
        assert study.run(Fake(order, failing=True))
        trials.append(study.trials)
    assert trials[0] == trials[1] == trials[2]


@pytest.mark.parametrize("name", ALGORITHMS)
def test_no_candidate_costs_too_much_none_comes_twice_and_none_is_too_many(name: str) -> None:
    sampled(name)
    study = study_of(name)
    assert study.run(Fake())
    cheap = [trial for trial in study.trials if trial.level == "proxy"]
    assert [trial.number for trial in cheap] == list(range(len(cheap)))
    assert len(cheap) == BUDGET or study.optimizer.finished
    assert len({trial.genome for trial in cheap}) == len(cheap)
    over = [trial for trial in study.trials if not SPACE.keeps(trial.genome)]
    assert not over if name != "greedy" else {trial.level for trial in over} == {"proxy"}
    assert study.best is not None
    assert SPACE.keeps(study.best.genome)
    assert all(trial.costs == SPACE.costs(trial.genome) for trial in study.trials)


@pytest.mark.parametrize("name", OURS)
def test_the_best_quarter_of_each_generation_is_looked_at_closely(name: str) -> None:
    generations: list[list[Task]] = []

    class Noting(Fake):
        def results(self, tasks: Sequence[Task], should_stop: Callable[[], object]) -> Iterator[Trial]:
            generations.append(list(tasks))
            return super().results(tasks, should_stop)

    study = study_of(name)
    assert study.run(Noting())
    fitness = {(trial.number, trial.level): trial.probability or 0.0 for trial in study.trials}
    cheap_ones = [tasks for tasks in generations if tasks[0].level == "proxy"]
    closely = {task.number for tasks in generations if tasks[0].level == "full" for task in tasks}
    for cheap in cheap_ones:
        ranked = sorted(
            (task for task in cheap if SPACE.keeps(task.genome)),
            key=lambda task: (-fitness[task.number, "proxy"], task.number),
        )
        best = ranked[: math.ceil(len(cheap) / 4)]
        assert {task.number for task in cheap} & closely == {task.number for task in best}
    best = max((trial for trial in study.trials if trial.level == "full"), key=lambda trial: trial.fitness or 0.0)
    assert study.best == best


def test_a_generation_in_which_nothing_can_be_made_is_followed_by_another() -> None:
    class Failing(Fake):
        def answer(self, task: Task) -> Trial:
            return task.trial(None, error="no such width") if task.number < 6 else super().answer(task)

    study = study_of("ga")
    assert study.run(Failing())
    assert study.best is not None
    assert study.best.number >= 6
    nothing = study_of("ga")
    assert nothing.run(Fake())
    failed = study_of("ga", [replace(trial, fitness=None) for trial in nothing.trials if trial.level == "proxy"])
    failed.should_stop = lambda: True
    assert not failed.run(Fake())
    assert failed.best is None
    assert failed.front == []


def test_trials_of_another_study_are_not_taken_for_ones_of_this() -> None:
    other = Study(build_optimizer("ga", space_of(3.5), seed=9, population=5), BUDGET, costs=SPACE.costs)
    assert other.run(Fake())
    boasting = [replace(trial, fitness=99.0, probability=99.0) for trial in other.trials]
    mine, fresh = study_of("ga", boasting), study_of("ga")
    assert mine.run(Fake())
    assert fresh.run(Fake())
    assert mine.trials == fresh.trials
    assert mine.best == fresh.best


@pytest.mark.parametrize("name", ["nsga2", "tpe"])
def test_a_search_of_two_objectives_finds_the_front_of_its_close_looks(name: str) -> None:
    sampled(name)
    study = study_of(name, objectives=("top1", "macs"))
    assert study.run(Fake(failing=True))
    close = [trial for trial in study.trials if trial.level == "full" and trial.fitness is not None]
    best = {
        trial.number
        for trial in close
        if not any(
            (other.fitness or 0) >= (trial.fitness or 0)
            and other.costs["macs"] <= trial.costs["macs"]
            and (other.fitness, other.costs["macs"]) != (trial.fitness, trial.costs["macs"])
            for other in close
        )
    }
    assert {trial.number for trial in study.front} == best
    fitness = [trial.fitness or 0.0 for trial in study.front]
    assert fitness == sorted(fitness, reverse=True)
    again = study_of(name, written(study.trials[:11]), objectives=("top1", "macs"))
    assert again.run(Fake(1, failing=True))
    assert again.trials == study.trials


points = st.lists(st.tuples(*[st.integers(0, 4)] * 3), max_size=14)


@given(points)
def test_the_front_is_what_nothing_dominates_of_equal_ones_the_first(given: list[tuple[float, ...]]) -> None:
    found = front(given)
    brute = [
        place
        for place, one in enumerate(given)
        if not any(all(a <= b for a, b in zip(one, other, strict=True)) and one != other for other in given)
        and given.index(one) == place
    ]
    assert found == brute


@given(points)
def test_ranks_are_fronts_of_what_earlier_fronts_leave(given: list[tuple[float, ...]]) -> None:
    found = ranks(given)
    for place, one in enumerate(given):
        above = [found[other] for other in range(len(given)) if dominates(given[other], one)]
        assert found[place] == max(above, default=-1) + 1
