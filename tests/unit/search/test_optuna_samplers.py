"""Optuna's samplers are asked and told as our own are; without Optuna they say what to install."""

from __future__ import annotations

import json
import sys

import numpy as np
import pytest

from mcomp.errors import BackendMissingError, UsageError
from mcomp.search import Candidate, OptunaOptimizer, build_optimizer
from tests.unit.search.search_spaces import mixed_space, quality

NAMES = ("tpe", "nsga2", "cmaes")


@pytest.fixture
def optuna() -> None:
    pytest.importorskip("optuna", reason="the extra `search` is not installed")
    pytest.importorskip("cmaes", reason="the extra `search` is not installed")


def run(optimizer: OptunaOptimizer, count: int) -> list[Candidate]:
    tried = []
    for _ in range(count):
        (one,) = optimizer.ask()
        optimizer.tell(one, quality(one.genome))
        tried.append(one)
    return tried


@pytest.mark.usefixtures("optuna")
@pytest.mark.parametrize("name", NAMES)
def test_a_sampler_resumes_in_the_middle_as_if_nothing_had_happened(name: str) -> None:
    undisturbed = run(OptunaOptimizer(name, mixed_space(), seed=4, population=None), 30)
    first = OptunaOptimizer(name, mixed_space(), seed=4)
    tried = run(first, 17)
    lost = first.ask()
    again = OptunaOptimizer(name, mixed_space(), seed=4)
    again.restore(json.loads(json.dumps(first.state(), allow_nan=False)))
    assert again.best == first.best
    assert [*tried, *run(again, 13)] == undisturbed
    assert lost[0] == undisturbed[17]


@pytest.mark.usefixtures("optuna")
@pytest.mark.parametrize("name", NAMES)
def test_a_sampler_tries_no_genome_twice_begins_with_the_known_ones_and_keeps_budgets(name: str) -> None:
    space = mixed_space()
    optimizer = OptunaOptimizer(name, space, seed=1)
    tried = [one.genome for one in run(optimizer, 30)]
    assert len(set(tried)) == 30
    assert tried[:2] == [space.uniform(), space.greedy()]
    assert all(map(space.keeps, tried))
    assert optimizer.best == (max(tried, key=quality), max(map(quality, tried)))


@pytest.mark.usefixtures("optuna")
def test_two_objectives_and_failures_are_told_too() -> None:
    optimizer = OptunaOptimizer("nsga2", mixed_space(), population=6, objectives=2)
    for one in [*optimizer.ask(8), *optimizer.ask(8)]:
        fitness = (-np.inf, -np.inf) if one.number == 3 else (quality(one.genome), -sum(one.genome))
        assert optimizer.tell(one, fitness)
        assert not optimizer.tell(one, fitness)
    with pytest.raises(UsageError, match="MC483"):
        optimizer.tell(optimizer.ask()[0], 1.0)
    with pytest.raises(UsageError, match="MC485"):
        OptunaOptimizer("cmaes", mixed_space(), objectives=2)
    with pytest.raises(UsageError, match="MC484"):
        OptunaOptimizer("nsga2", mixed_space(), population=7, objectives=2).restore(optimizer.state())


@pytest.mark.parametrize("name", NAMES)
def test_without_optuna_the_message_says_what_to_install(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "optuna", None)
    with pytest.raises(BackendMissingError, match=r"MC622[\s\S]*pip install 'mcomp\[search\]'"):
        build_optimizer(name, mixed_space())


def test_a_sampler_that_there_is_none_of_is_refused() -> None:
    with pytest.raises(UsageError, match=r"MC485[\s\S]*did you mean `cmaes`"):
        OptunaOptimizer("cmae", mixed_space())
