"""Optimisers: the same candidates for the same seed, whoever tries them, killed or not; none twice."""

from __future__ import annotations

import json
import random
from typing import Any

import numpy as np
import pytest

from mcomp.errors import UsageError
from mcomp.search import ALGORITHMS, Candidate, Optimizer, Space, average_bits, build_optimizer, genes_of
from tests.unit.search.search_spaces import WEIGHTS, mixed_space, quality

OWN = ("ga", "pso", "abc", "aco", "greedy")
CHANCE = ("ga", "pso", "abc", "aco")
COUNT = 130


def built(name: str, space: Space | None = None, **options: Any) -> Optimizer:
    optimizer = build_optimizer(name, space or mixed_space(), **{"population": 12, **options})
    assert isinstance(optimizer, Optimizer)
    return optimizer


def run(optimizer: Optimizer, count: int = COUNT) -> list[Candidate]:
    """One worker."""
    tried = []
    while len(tried) < count and (asked := optimizer.ask()):
        tried += asked
        optimizer.tell(asked[0], quality(asked[0].genome))
    return tried


@pytest.mark.parametrize("name", OWN)
def test_a_run_killed_anywhere_and_resumed_tries_the_same_candidates(name: str) -> None:
    undisturbed = run(built(name, seed=5))
    optimizer = built(name, seed=5)
    tried: list[Candidate] = []
    while len(tried) < len(undisturbed):
        tried += (asked := optimizer.ask())
        optimizer.tell(asked[0], quality(asked[0].genome))
        if len(tried) % 7 == 3:
            optimizer.ask(2)  # given out, and lost with whoever had them
            saved = json.loads(json.dumps(optimizer.state(), allow_nan=False))
            optimizer = built(name, seed=99)
            optimizer.restore(saved)
    assert tried == undisturbed


@pytest.mark.parametrize("name", OWN)
@pytest.mark.parametrize("workers", [2, 5])
def test_any_number_of_workers_in_any_order_tries_the_same_candidates(name: str, workers: int) -> None:
    undisturbed = run(built(name, seed=2))
    optimizer, order = built(name, seed=2), random.Random(workers)
    out: list[Candidate] = []
    told: list[Candidate] = []
    while len(told) < len(undisturbed):
        out += optimizer.ask(workers - len(out))
        one = out.pop(order.randrange(len(out)))
        assert optimizer.tell(one, quality(one.genome))
        told.append(one)
    by_number = {one.number: one for one in told}
    shared = [one for one in undisturbed if one.number in by_number]
    assert len(shared) > len(undisturbed) - 2 * workers - 12
    assert all(by_number[one.number] == one for one in shared)


@pytest.mark.parametrize("name", OWN)
def test_no_genome_is_tried_twice_and_each_keeps_the_budgets(name: str) -> None:
    space = mixed_space()
    tried = run(built(name, space))
    assert len({one.genome for one in tried}) == len(tried)
    assert [one.number for one in tried] == list(range(len(tried)))
    over = [one for one in tried if not space.keeps(one.genome)]
    assert not over or name == "greedy"  # which measures each layer alone, all others at the top


@pytest.mark.parametrize("name", CHANCE)
def test_seeds_differ(name: str) -> None:
    assert run(built(name, seed=1), 40) != run(built(name, seed=2), 40)


@pytest.mark.parametrize("name", OWN)
def test_the_best_is_the_best_that_was_told_inside_the_budgets(name: str) -> None:
    space = mixed_space()
    optimizer = built(name, space)
    tried = [one.genome for one in run(optimizer) if space.keeps(one.genome)]
    assert optimizer.best is not None
    assert optimizer.best == (max(tried, key=quality), max(map(quality, tried)))


@pytest.mark.parametrize("name", OWN)
def test_a_search_betters_what_it_begins_with_and_what_chance_finds(name: str) -> None:
    space = mixed_space()
    generator = np.random.default_rng(0)
    chance = max(quality(space.random(generator)) for _ in range(COUNT))
    optimizer = built(name, space)
    run(optimizer)
    assert optimizer.best is not None
    assert optimizer.best[1] > max(chance, quality(space.uniform()), quality(space.greedy()))


@pytest.mark.parametrize("name", OWN)
def test_the_uniform_the_greedy_and_the_given_genomes_are_among_the_first(name: str) -> None:
    space = mixed_space()
    given = space.random(np.random.default_rng(8))
    first = {one.genome for one in run(built(name, space, start=[given]), 80)}
    assert {given, space.uniform()} <= first
    assert space.greedy() in first or name == "greedy"  # it has measured curves of its own by then


@pytest.mark.parametrize("name", OWN)
def test_a_small_space_is_used_up(name: str) -> None:
    genes = genes_of(["stem", "head"], w_bits=(2, 4))
    space = Space(genes, [average_bits(genes, "w_bits", WEIGHTS, 3.5)])
    tried = [one.genome for one in run(built(name, space), 50)]
    assert len(set(tried)) == len(tried) <= 9
    assert space.uniform() in tried


@pytest.mark.parametrize("name", OWN)
def test_candidates_that_fail_are_not_the_best_and_stop_nothing(name: str) -> None:
    optimizer = built(name, seed=3)
    while asked := optimizer.ask(4):
        for one in asked:
            optimizer.tell(one, -np.inf if one.number % 3 else quality(one.genome))
        if asked[0].number > 75:
            break
    assert optimizer.best is not None
    again = built(name, seed=3)
    again.restore(json.loads(json.dumps(optimizer.state(), allow_nan=False)))
    assert again.best == optimizer.best
    assert again.ask(3) == optimizer.ask(3)


@pytest.mark.parametrize("name", OWN)
def test_a_candidate_counts_once(name: str) -> None:
    optimizer = built(name)
    one, other = optimizer.ask(2)
    assert optimizer.tell(one, -1.0)
    assert not optimizer.tell(one, 7.0)
    assert optimizer.tell(other, -2.0)


def test_what_was_never_asked_for_is_refused() -> None:
    optimizer = built("ga")
    (one,) = optimizer.ask()
    for wrong, fitness in [(Candidate(500, one.genome), 1.0), (Candidate(one.number, one.genome[::-1]), 1.0)]:
        with pytest.raises(UsageError, match="MC483"):
            optimizer.tell(wrong, fitness)
    with pytest.raises(UsageError, match="MC483"):
        optimizer.tell(one, float("nan"))


def test_a_state_of_another_study_is_refused() -> None:
    saved = built("ga").state()
    for other in (built("pso"), built("ga", mixed_space(weights=5)), built("ga", population=20)):
        with pytest.raises(UsageError, match="MC484"):
            other.restore(saved)


def test_an_algorithm_that_there_is_none_of_is_refused() -> None:
    with pytest.raises(UsageError, match=r"MC485[\s\S]*did you mean `nsga2`"):
        build_optimizer("nsga", mixed_space())
    with pytest.raises(UsageError, match="MC483"):
        build_optimizer("ga", mixed_space(), population=2)
    assert set(OWN) < set(ALGORITHMS)


def test_greedy_s_curves_are_what_was_lost_with_one_gene_lowered() -> None:
    space = mixed_space()
    optimizer = built("greedy", space)
    run(optimizer)
    top = space.top()
    curve = optimizer.points["keep:block.1"]  # type: ignore[attr-defined]
    place = [gene.name for gene in space.genes].index("keep:block.1")
    assert len(curve) > 4
    for value, loss in curve.items():
        assert loss == pytest.approx(quality(top) - quality((*top[:place], value, *top[place + 1 :])))
