"""A space gives only genomes that keep every budget, and refuses what no genome can keep."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mcomp.errors import UsageError
from mcomp.search import Budget, Gene, Sensitivity, Space, average_bits, cost_budget, genes_of
from tests.unit.search.search_spaces import INPUTS, LAYERS, WEIGHTS, macs, mixed_space

budgets = st.tuples(st.floats(3.0, 8.0), st.floats(2.0, 8.0), st.floats(1.0, 4.0))
numbers = st.lists(st.floats(-1, 12), min_size=12, max_size=12)


@settings(max_examples=25, deadline=None)
@given(budgets, numbers)
def test_a_repaired_genome_keeps_every_budget_and_is_below_the_given_one(
    limits: tuple[float, float, float], given: list[float]
) -> None:
    space = mixed_space(*limits)
    genome = space.repair(given)
    assert sum(WEIGHTS[layer] * genome[3 * place] for place, layer in enumerate(LAYERS)) <= (
        limits[0] * sum(WEIGHTS.values()) * (1 + 1e-8)
    )
    assert sum(INPUTS[layer] * genome[3 * place + 1] for place, layer in enumerate(LAYERS)) <= (
        limits[1] * sum(INPUTS.values()) * (1 + 1e-8)
    )
    keep = genome[2::3]
    assert keep[0] + sum(a * b for a, b in itertools.pairwise(keep)) <= limits[2] * (1 + 1e-8)
    assert genome[0] == 8
    for gene, value, wanted in zip(space.genes, genome, given, strict=True):
        assert gene.low <= value <= gene.high
        assert value <= max(gene.value(wanted), gene.low)
        assert isinstance(value, int) is gene.whole


@settings(max_examples=30, deadline=None)
@given(budgets, numbers)
def test_repair_takes_no_more_than_it_must(limits: tuple[float, float, float], given: list[float]) -> None:
    space = mixed_space(*limits)
    genome = space.repair(given)
    for place, gene in enumerate(space.genes):
        wanted = gene.value(given[place])
        step = 1 if gene.whole else 1e-3
        if genome[place] + step <= wanted:
            assert not space.keeps((*genome[:place], gene.value(genome[place] + step), *genome[place + 1 :]))


@settings(max_examples=25, deadline=None)
@given(budgets, numbers)
def test_a_genome_inside_the_budgets_is_left_as_it_is(limits: tuple[float, float, float], given: list[float]) -> None:
    space = mixed_space(*limits)
    genome = space.repair(given)
    assert space.keeps(genome)
    assert space.repair(genome) == genome
    assert space.decode(space.encode(genome)) == pytest.approx(genome, abs=1e-9)


@settings(max_examples=25, deadline=None)
@given(budgets, st.integers(0, 2**32))
def test_every_genome_a_space_gives_keeps_its_budgets(limits: tuple[float, float, float], seed: int) -> None:
    space = mixed_space(*limits)
    drawn = space.random(np.random.default_rng(seed))
    assert all(space.keeps(genome) for genome in (drawn, space.uniform(), space.greedy(), space.lowest()))


def test_the_uniform_genome_has_the_most_bits_that_fit_and_one_number_per_kind() -> None:
    genes = genes_of(LAYERS, w_bits=(2, 8), keep=(0.1, 1.0))
    space = Space(genes, [average_bits(genes, "w_bits", WEIGHTS, 4.7)])
    assert space.uniform() == (4, 1.0) * 4
    assert Space(genes, [average_bits(genes, "w_bits", WEIGHTS, 5.0)]).uniform() == (5, 1.0) * 4


def test_of_equal_layers_the_less_sensitive_one_is_lowered() -> None:
    genes = genes_of(["a", "b"], w_bits=(2, 8))
    sizes = {"a": 10, "b": 10}
    told = [
        Space(genes, [average_bits(genes, "w_bits", sizes, 5)], Sensitivity(genes, {robust: 0.01})).greedy()
        for robust in ("a", "b")
    ]
    assert told[0][0] < told[0][1]
    assert told[0] == told[1][::-1]


def test_of_equally_sensitive_layers_the_larger_one_is_lowered() -> None:
    genes = genes_of(["small", "large"], w_bits=(2, 8))
    small, large = Space(genes, [average_bits(genes, "w_bits", {"small": 1, "large": 50}, 5.1)]).greedy()
    assert small > large


@settings(max_examples=30, deadline=None)
@given(st.lists(st.integers(1, 9), min_size=4, max_size=4), st.integers(2, 4), st.floats(2.2, 5.8))
def test_greedy_bits_are_near_the_best_of_all_for_the_assumed_error(sizes: list[int], high: int, limit: float) -> None:
    """Against every genome there is. Lowering the cheapest step is optimal but for the last step's overshoot."""
    genes = genes_of("abcd", w_bits=(2, 2 + high))
    space = Space(genes, [average_bits(genes, "w_bits", dict(zip("abcd", sizes, strict=True)), limit)])
    errors = {
        bits: sum(0.25 ** (one - 1) for one in bits)
        for bits in itertools.product(range(2, 3 + high), repeat=4)
        if sum(b * s for b, s in zip(bits, sizes, strict=True)) <= limit * sum(sizes) * (1 + 1e-9)
    }
    assert space.greedy() in errors
    assert min(errors.values()) <= errors[space.greedy()] <= min(errors.values()) + 2 * 0.25


def test_a_cost_given_genome_by_genome_is_the_same_as_one_given_row_by_row() -> None:
    genes = mixed_space().genes
    rows = Space(genes, [cost_budget("macs", 1.5, macs)])
    single = Space(genes, [cost_budget("macs", 1.5, lambda row: float(macs(np.asarray(row)[None])[0]), rows=False)])
    for seed in range(5):
        drawn = np.random.default_rng(seed).uniform(0, 9, len(genes)).tolist()
        assert rows.repair(drawn) == single.repair(drawn)


def test_names_and_genomes_turn_into_each_other() -> None:
    space = mixed_space()
    genome = space.random(np.random.default_rng(3))
    assert space.genome(space.named(genome)) == genome
    assert list(space.named(genome)) == list(LAYERS)
    with pytest.raises(UsageError, match=r"MC481[\s\S]*did you mean `keep:stem`") as caught:
        space.genome({"stom": {"keep": 1.0}})
    assert caught.value.exit_code == 2


def test_measured_points_outweigh_the_assumed_curve_and_noise_cannot_make_lower_look_better() -> None:
    genes = genes_of(["a", "b"], w_bits=(2, 4))
    curve = Sensitivity(genes, points={"w_bits:a": {4: 0.0, 3: 2.0, 2: 1.0}})
    assert [curve.loss(0, bits) for bits in (4, 3.5, 3, 2)] == [0.0, 1.0, 2.0, 2.0]
    assert curve.loss(1, 2) == 0.25


@pytest.mark.parametrize(
    ("make", "code", "said"),
    [
        (lambda: mixed_space(weights=1.5), "MC482", "the nearest that can be kept is"),
        (lambda: mixed_space(work=0.2), "MC482", "the nearest that can be kept is 0.4375"),
        (lambda: Space([]), "MC480", "there are no genes"),
        (lambda: Space(genes_of(["a"], w_bits=(4, 4))), "MC480", "all 1 genes are pinned"),
        (lambda: Space([Gene("a", "keep", 0.1, 1)] * 2), "MC480", "`keep:a` twice"),
        (lambda: genes_of(["a", "a"], w_bits=(2, 8)), "MC480", "`a` is named twice"),
        (lambda: genes_of(["a"], w_bits=(8, 2)), "MC480", "range 8 to 2 is empty"),
        (lambda: genes_of(["a"], w_bits=(0, 2)), "MC480", "0 to 2 bits"),
        (lambda: genes_of(["a"], keep=(0.0, 1.0)), "MC480", "shares above 0"),
        (lambda: genes_of(["conv1"], w_bits=(2, 8), pins={"conv2": {"w_bits": 8}}), "MC481", "did you mean `conv1`"),
        (lambda: genes_of(["a"], w_bits=(2, 8), pins={"a": {"a_bits": 8}}), "MC481", "did you mean `w_bits`"),
        (lambda: average_bits(genes_of(["a"], keep=(0.1, 1)), "w_bits", {"a": 1}, 4), "MC482", "not searched"),
        (lambda: average_bits(genes_of(["a"], w_bits=(2, 8)), "w_bits", {}, 4), "MC482", "no size above 0"),
        (lambda: Budget("bytes", float("nan"), macs), "MC482", "finite number above 0"),
        (lambda: Sensitivity(genes_of(["a"], w_bits=(2, 8)), {"b": 1}), "MC481", "not in the space"),
        (lambda: Sensitivity(genes_of(["a"], w_bits=(2, 8)), {"a": 0}), "MC480", "above 0"),
        (lambda: mixed_space().repair([1, 2]), "MC480", "2 values does not fit a space of 12"),
        (
            lambda: Space(genes_of(["a"], w_bits=(2, 8)), [cost_budget("ms", 5, lambda rows: -rows.sum(1) + 20)]),
            "MC482",
            "no gene raises",
        ),
    ],
)
def test_what_cannot_be_searched_is_refused_before_the_first_candidate(make: Any, code: str, said: str) -> None:
    with pytest.raises(UsageError) as caught:
        make()
    assert caught.value.code == code
    assert said in str(caught.value)
    assert caught.value.hint


@settings(max_examples=40, deadline=None)
@given(st.lists(st.integers(1, 10**7), min_size=3, max_size=3), st.integers(2, 6))
def test_the_nearest_feasible_value_that_a_refusal_names_is_accepted(sizes: list[int], lowest: int) -> None:
    genes = genes_of("abc", w_bits=(lowest, 8), pins={"a": {"w_bits": 8}})
    named = dict(zip("abc", sizes, strict=True))
    with pytest.raises(UsageError) as caught:
        Space(genes, [average_bits(genes, "w_bits", named, 1.0)])
    nearest = float(caught.value.message.rpartition(" ")[2])
    assert Space(genes, [average_bits(genes, "w_bits", named, nearest)]).lowest() == (8, lowest, lowest)
