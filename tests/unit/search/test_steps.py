"""A share with a step is one of a few, and a cost that falls in stairs is met like any other."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mcomp.errors import UsageError
from mcomp.search import Gene, Space, average_bits, build_optimizer, cost_budget, genes_of

CHANNELS = np.array([16, 24, 56, 200])
LAYERS = ("a", "b", "c", "d")
SIZES = dict(zip(LAYERS, (10, 40, 300, 90), strict=True))

points = st.lists(st.floats(0, 1), min_size=8, max_size=8)
room = st.tuples(st.floats(0.15, 1.0), st.floats(2.0, 8.0))


def stairs(rows: np.ndarray) -> np.ndarray:
    """Products of neighbours whose widths are multiples of 8, as a share of what all channels cost."""
    widths = 8 * np.maximum(np.floor(rows[:, 1::2] * CHANNELS / 8 + 1e-9), 1)
    return (widths[:, 1:] * widths[:, :-1]).sum(1) / (CHANNELS[1:] * CHANNELS[:-1]).sum()


def stepped(share: float, bits: float, steps: bool = True) -> Space:
    given = {layer: 8 / int(channels) for layer, channels in zip(LAYERS, CHANNELS, strict=True)}
    genes = genes_of(LAYERS, w_bits=(2, 8), keep=(0.1, 1.0), steps=given if steps else None)
    return Space(genes, [average_bits(genes, "w_bits", SIZES, bits), cost_budget("macs", share, stairs)])


def allowed(gene: Gene) -> set[float]:
    if gene.whole:
        return set(range(int(gene.low), int(gene.high) + 1))
    return {gene.high - count * gene.step for count in range(26) if gene.high - count * gene.step >= 0.1 - 1e-12}


@settings(max_examples=40, deadline=None)
@given(room, points)
def test_every_decoded_genome_is_on_the_grid_and_inside_the_budgets(
    limits: tuple[float, float], point: list[float]
) -> None:
    space = stepped(*limits)
    full = [space.lowest(), space.top(), space.uniform(), space.greedy(), space.random(np.random.default_rng(1))]
    for genome in (space.decode(np.array(point)[: len(space)]), *full):
        assert all(value in allowed(gene) for gene, value in zip(space.genes, genome, strict=True))
        assert space.keeps(genome) or genome == space.top()


@settings(max_examples=40, deadline=None)
@given(room, points, st.booleans())
def test_repair_of_stairs_is_idempotent_raises_nothing_and_leaves_no_step_to_take_back(
    limits: tuple[float, float], point: list[float], steps: bool
) -> None:
    space = stepped(*limits, steps)
    wanted = [
        gene.value(gene.low + share * (gene.high - gene.low)) for gene, share in zip(space.genes, point, strict=True)
    ]
    genome = space.repair(wanted)
    assert space.keeps(genome)
    assert space.repair(genome) == genome
    assert all(value <= most for value, most in zip(genome, wanted, strict=True))
    for place, gene in enumerate(space.genes):
        higher = [value for value in allowed(gene) if genome[place] < value <= wanted[place]] if gene.grain else []
        assert not any(space.keeps((*genome[:place], value, *genome[place + 1 :])) for value in higher)


@settings(max_examples=25, deadline=None)
@given(points)
def test_a_stepped_gene_s_values_have_equal_parts_of_the_cube(point: list[float]) -> None:
    space = stepped(1.0, 8.0)
    genome = space.decode(np.array(point)[: len(space)])
    assert space.decode(space.encode(genome)) == genome
    for place, gene in enumerate(space.genes):
        values = sorted(allowed(gene))
        assert space.bins[place] == pytest.approx(1 / len(values))
        part = min(int(point[place] * len(values)), len(values) - 1)
        edge = min(point[place] * len(values) % 1, 1 - point[place] * len(values) % 1)
        assert genome[place] == values[part] or edge < 1e-9


def test_shares_that_differ_in_less_than_a_stair_are_lowered_past_it() -> None:
    genes = genes_of(["only"], keep=(0.05, 1.0))
    space = Space(genes, [cost_budget("macs", 0.5, lambda rows: np.ceil(rows.sum(1) * 3) / 3)])
    assert space.greedy()[0] == pytest.approx(1 / 3, rel=1e-3)  # not a sixteenth below 1 saves anything


def test_a_cost_that_two_genes_hold_up_together_falls_as_both_do() -> None:
    genes = genes_of(["left", "right"], keep=(0.1, 1.0), steps={"left": 0.25, "right": 0.125})
    space = Space(genes, [cost_budget("latency_ms", 0.6, lambda rows: rows.max(1))])
    assert space.greedy() == (0.5, 0.5)


@pytest.mark.parametrize(
    ("step", "low", "values"), [(1.0, 0.3, {1.0}), (0.125, 0.3, {1, 0.875, 0.75, 0.625, 0.5, 0.375})]
)
def test_the_largest_share_is_always_there_and_the_smallest_is_not_below_the_range(
    step: float, low: float, values: set[float]
) -> None:
    gene = Gene("a", "keep", low, 1.0, step)
    assert {gene.value(share) for share in np.linspace(0, 1, 400)} == values
    assert gene.pinned is (len(values) == 1)


@pytest.mark.parametrize("name", ["ga", "pso", "abc", "aco", "greedy"])
def test_optimisers_try_only_what_is_on_the_grid(name: str) -> None:
    space = stepped(0.4, 4.0)
    optimizer = build_optimizer(name, space, seed=1)
    tried = []
    while len(tried) < 90 and (asked := optimizer.ask()):
        tried += asked
        optimizer.tell(asked[0], sum(asked[0].genome))
    for one in tried:
        assert all(value in allowed(gene) for gene, value in zip(space.genes, one.genome, strict=True))
    assert optimizer.best is not None
    assert space.keeps(optimizer.best[0])


@pytest.mark.parametrize("name", ["tpe", "nsga2", "cmaes"])
def test_samplers_try_only_what_is_on_the_grid(name: str) -> None:
    pytest.importorskip("optuna", reason="the extra `search` is not installed")
    pytest.importorskip("cmaes", reason="the extra `search` is not installed")
    space = stepped(0.4, 4.0)
    optimizer = build_optimizer(name, space, seed=1)
    tried = []
    for _ in range(15):
        (one,) = optimizer.ask()
        optimizer.tell(one, sum(one.genome))
        tried.append(one.genome)
    assert tried[:2] == [space.uniform(), space.greedy()]
    for genome in tried:
        assert all(value in allowed(gene) for gene, value in zip(space.genes, genome, strict=True))


def test_spaces_of_other_steps_are_other_spaces() -> None:
    prints = [
        Space(genes_of(["a"], keep=(0.5, 1.0), steps={"a": step})).fingerprint() for step in (0.0, 0.125, 0.25, 0.125)
    ]
    assert prints[1] == prints[3]
    assert len(set(prints)) == 3


@pytest.mark.parametrize(
    ("make", "code", "said"),
    [
        (lambda: Gene("a", "keep", 0.1, 1, -0.1), "MC480", "its step is -0.1"),
        (lambda: Gene("a", "keep", 0.1, 1, float("nan")), "MC480", "its step is nan"),
        (lambda: Gene("a", "w_bits", 2, 8, 2), "MC480", "of `keep` only"),
        (lambda: genes_of(["conv1"], keep=(0.1, 1), steps={"conv2": 0.1}), "MC481", "did you mean `conv1`"),
        (lambda: genes_of(["a"], w_bits=(2, 8), steps={"a": 0.1}), "MC481", "has a step, but is not searched"),
        (lambda: Space(genes_of(["a"], keep=(0.5, 1), steps={"a": 1.0})), "MC480", "all 1 genes are pinned"),
    ],
)
def test_steps_that_mean_nothing_are_refused(make: Any, code: str, said: str) -> None:
    with pytest.raises(UsageError) as caught:
        make()
    assert caught.value.code == code
    assert said in str(caught.value)


def test_a_repaired_stair_is_near_the_best_that_fits() -> None:
    """Against every genome there is of three stepped layers, the loss that repair lowers by."""
    genes = genes_of(["a", "b", "c"], keep=(0.25, 1.0), steps=dict.fromkeys("abc", 0.125))
    for limit in (0.3, 0.5, 0.8):
        space = Space(genes, [cost_budget("macs", limit, lambda rows: (rows @ np.array([1.0, 2.0, 3.0])) / 6)])
        shares = [1 - count / 8 for count in range(7)]
        losses = {
            genome: sum((1 - share) ** 2 for share in genome)
            for genome in itertools.product(shares, repeat=3)
            if space.keeps(genome)
        }
        found = losses[space.greedy()]  # type: ignore[index]
        assert min(losses.values()) <= found <= min(losses.values()) + 0.15
