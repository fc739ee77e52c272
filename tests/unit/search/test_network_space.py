"""What a genome is said to cost is what is counted on the network that it stands for."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from mcomp.errors import StageError, UsageError
from mcomp.metrics import count
from mcomp.pruning.repeated import RepeatedPruning
from mcomp.search import network_costs
from mcomp.search.genes import Genome
from mcomp.search.network import layers_of
from mcomp.search.network_space import Budgets, NetworkSpace, network_space
from tests.unit.search.networks import Grouped, Plain, Residual, Separable, bytes_of, images, seeded, weighted_layers

KINDS = [Plain, Residual, Separable, Grouped]
#: What widths divide by, and the fewest.
ROUNDED = [(1, 1), (8, 1), (3, 5)]


def space_of(kind: type[nn.Module] = Plain, regular: int = 1, min_channels: int = 1, **options: Any) -> NetworkSpace:
    model = seeded(kind)
    cuts = RepeatedPruning(model, (images(),), regular=regular, min_channels=min_channels)
    return network_space(model, (images(),), pruning=cuts, **{"keep": (0.15, 1.0), **options})


@pytest.fixture(scope="module", params=[(kind, *how) for kind in KINDS for how in ROUNDED], ids=str)
def known(request: pytest.FixtureRequest) -> NetworkSpace:
    return space_of(*request.param)


def cut_of(known: NetworkSpace, genome: Genome) -> nn.Module:
    assert known.pruning is not None
    named = known.space.named(genome)
    return known.pruning.cut({name: kinds["keep"] for name, kinds in named.items() if "keep" in kinds})


def drawn(known: NetworkSpace, seed: int) -> Genome:
    return known.space.decode(np.random.default_rng(seed).random(len(known.space)))


def test_macs_parameters_and_bytes_are_those_of_the_network_that_was_cut(known: NetworkSpace) -> None:
    for genome in (known.space.lowest(), known.space.top(), drawn(known, 0), drawn(known, 1)):
        made = cut_of(known, genome)
        counted, said = count(made, (images(),)), known.costs_of(genome)
        assert said["macs"] == pytest.approx(counted.macs, rel=1e-12)
        assert said["params"] == pytest.approx(counted.params, rel=1e-12)
        assert said["bytes"] == pytest.approx(bytes_of(made, known, genome), rel=1e-12)


def test_the_widths_that_are_reckoned_with_are_those_that_are_cut(known: NetworkSpace) -> None:
    assert known.pruning is not None
    names = list(known.pruning.layers)
    reckoned = network_costs.Widths(known.space.genes, known.pruning, names)
    for share in np.linspace(0.02, 1.0, 99):
        row = np.array([[share if gene.kind == "keep" else 8.0 for gene in known.space.genes]])
        cut = known.pruning.widths(dict.fromkeys(names, float(share)))
        assert reckoned(row)[0].tolist() == [cut[name] for name in names]


def test_no_cost_rises_as_a_gene_falls(known: NetworkSpace) -> None:
    for seed in range(3):
        genome = drawn(known, seed)
        before = known.costs_of(genome)
        for place, gene in enumerate(known.space.genes):
            lowered = (*genome[:place], gene.low, *genome[place + 1 :])
            after = known.costs_of(lowered)
            assert all(after[name] <= before[name] * (1 + 1e-12) for name in before)


def test_a_cut_depends_on_its_shares_alone() -> None:
    """Whatever the network's code refused before: a module that says no to one width, and is asked for others."""

    class Picky(Plain):
        def forward(self, x: Tensor) -> Tensor:
            x = self.norm_a(self.a(x)).relu()
            if x.shape[1] == 7:
                raise ValueError("seven channels")
            return self.head(self.norm_c(self.c(self.norm_b(self.b(x)).relu())).relu().mean((2, 3)))

    model = seeded(Picky)
    cuts = RepeatedPruning(model, (images(),))
    first = cuts.cut({"a": 0.5, "b": 0.5})
    cuts.cut({"a": 7 / 20, "b": 0.5})
    again = cuts.cut({"a": 0.5, "b": 0.5})
    assert again.a.out_channels == first.a.out_channels == 10
    assert all(torch.equal(*pair) for pair in zip(first.parameters(), again.parameters(), strict=True))


@settings(max_examples=25)
@given(st.lists(st.integers(2, 8), min_size=8, max_size=8))
def test_mean_bits_are_weighted_by_what_layers_hold_and_read(bits: list[int]) -> None:
    known = network_space(MODEL, (images(),), first_last_bits=None)
    layers = weighted_layers(MODEL)
    genome = known.space.genome(
        {name: {"w_bits": bits[2 * at], "a_bits": bits[2 * at + 1]} for at, name in enumerate(layers)}
    )
    weights = [layer.weight.numel() for layer in layers.values()]
    read = [3 * 144, 20 * 144, 23 * 36, 16]  # 12 x 12 images, halved by the second convolution
    said = known.costs_of(genome)
    assert said["avg_bit_weights"] == pytest.approx(np.average(bits[0::2], weights=weights))
    assert said["avg_bit_fm"] == pytest.approx(np.average(bits[1::2], weights=read))


MODEL = seeded(Plain)


def test_layers_come_in_the_order_of_their_calls_whatever_way_they_are_called() -> None:
    class Late(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.second, self.unused = nn.Linear(6, 2), nn.Linear(3, 3)
            self.first = torch.nn.utils.parametrizations.weight_norm(nn.Linear(5, 6))

        def forward(self, x: Tensor) -> Tensor:
            return self.second(self.first(input=x)) + self.second(self.first(x))

    found = layers_of(Late(), (torch.zeros(4, 5),))
    assert [(one.name, one.weights, one.inputs) for one in found] == [("first", 30, 10), ("second", 12, 12)]


def test_a_network_without_layers_is_refused() -> None:
    with pytest.raises(StageError) as caught:
        network_space(nn.Sequential(nn.ReLU()), (images(),))
    assert caught.value.code == "MC486"


def test_layers_that_share_a_weight_hold_it_each_at_their_own_bits() -> None:
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem, self.one, self.two, self.head = (nn.Linear(6, 6, bias=False) for _ in range(4))
            self.two.weight = self.one.weight

        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.two(self.one(self.stem(x)).relu()).relu())

    known = network_space(Tied(), (torch.zeros(2, 6),), a_bits=None)
    genome = known.space.genome({"one": {"w_bits": 3}, "two": {"w_bits": 5}})
    assert known.costs_of(genome)["bytes"] == pytest.approx(36 * (8 + 3 + 5 + 8) / 8)


def test_an_average_out_of_reach_is_refused_with_the_least_that_is_not() -> None:
    with pytest.raises(UsageError) as caught:
        space_of(budgets=Budgets(avg_bit_weights=2.0))
    assert caught.value.code == "MC482"
    least = float(caught.value.hint.split()[3])
    layers = weighted_layers(MODEL)
    sizes = {name: layer.weight.numel() for name, layer in layers.items()}
    ends = sizes["a"] + sizes["head"]
    exact = (8 * ends + 2 * (sizes["b"] + sizes["c"])) / sum(sizes.values())
    assert exact <= least * (1 + 1e-9) < exact * (1 + 1e-5)
    assert space_of(budgets=Budgets(avg_bit_weights=least)).costs_of(space_of().space.lowest())[
        "avg_bit_weights"
    ] == pytest.approx(exact)
    with pytest.raises(UsageError):
        space_of(budgets=Budgets(avg_bit_weights=exact * (1 - 1e-5)))


@pytest.mark.parametrize(
    ("budgets", "name"),
    [
        (Budgets(macs=0.01), "macs"),
        (Budgets(params="0.1K"), "params"),
        (Budgets(bytes=20, macs=0.9), "bytes"),
        (Budgets(avg_bit_weights=8.0, avg_bit_fm=2.01), "avg_bit_fm"),
    ],
)
def test_what_no_candidate_can_keep_is_refused_and_what_is_named_instead_can_be_kept(
    budgets: Budgets, name: str
) -> None:
    with pytest.raises(UsageError, match=f"`{name}: ") as caught:
        space_of(budgets=budgets)
    assert caught.value.code == "MC482"
    nearest = float(caught.value.hint.split()[3])
    found = space_of(budgets=Budgets(**{name: nearest}))
    assert found.space.keeps(found.space.lowest())


def test_pins_that_leave_no_room_are_refused() -> None:
    with pytest.raises(UsageError, match="pinned") as caught:
        space_of(keep=None, a_bits=None, pins={"b": {"w_bits": 8}}, budgets=Budgets(avg_bit_weights=5.0))
    assert caught.value.code == "MC482"


@pytest.mark.parametrize(
    ("pins", "options", "message", "hint"),
    [
        ({"hed": {"w_bits": 4}}, {}, "no layer is called `hed`", "`head`"),
        ({"hed": {"keep": 0.5}}, {}, "no group of channels is called `hed`", "there are"),
        ({"b": {"w_bits": 4}, "nowhere": {"w_bits": 4, "keep": 0.5}}, {}, "no layer is called `nowhere`", "there are"),
        ({"b": {"w_bits": 4}}, {"w_bits": None}, "`w_bits` of `b` is pinned, and not searched", "a range"),
        ({"b": {"w_bits": 4}}, {"w_bits": None, "a_bits": None}, "`w_bits` of `b` is pinned", "a range"),
        ({"b": {"keep": 0.5}}, {"keep": None}, "`keep` of `b` is pinned, and not searched", "a range"),
        ({"b": {"keep": 0.5, "w_bits": 4}}, {"keep": None}, "`keep` of `b` is pinned, and not searched", "a range"),
    ],
)
def test_a_pin_that_would_do_nothing_is_refused(
    pins: dict[str, dict[str, float]], options: dict[str, Any], message: str, hint: str
) -> None:
    with pytest.raises(UsageError, match=message) as caught:
        space_of(pins=pins, **options)
    assert caught.value.code == "MC481"
    assert hint in caught.value.hint


def test_a_pin_of_a_coupled_layer_is_refused_with_the_name_of_its_group() -> None:
    with pytest.raises(UsageError) as caught:
        space_of(Residual, pins={"two": {"keep": 0.5}})
    assert caught.value.hint == "its channels are those of `stem`: pin that"


def test_pinned_genes_stand_in_every_genome() -> None:
    known = space_of(pins={"b": {"w_bits": 5, "keep": 0.4}, "head": {"a_bits": 16}}, first_last_bits=7)
    for genome in (known.space.lowest(), known.space.top(), drawn(known, 4)):
        named = known.space.named(genome)
        assert (named["b"]["w_bits"], named["b"]["keep"]) == (5, 0.4)
        assert named["a"]["w_bits"] == named["a"]["a_bits"] == named["head"]["w_bits"] == 7
        assert named["head"]["a_bits"] == 16


def test_a_network_of_one_layer_has_it_pinned_unless_its_ends_are_searched_too() -> None:
    model, inputs = nn.Sequential(nn.Linear(5, 3)), (torch.zeros(2, 5),)
    with pytest.raises(UsageError, match="nothing to search") as caught:
        network_space(model, inputs)
    assert caught.value.code == "MC480"
    assert len(network_space(model, inputs, first_last_bits=None).space) == 2


@pytest.mark.parametrize(
    ("options", "budgets", "needed"),
    [
        ({"keep": None}, Budgets(macs=0.5), "`keep: [0.3, 1.0]`"),
        ({"keep": None}, Budgets(latency_ms=1.0), "`keep: [0.3, 1.0]`"),
        ({"a_bits": None}, Budgets(avg_bit_fm=4.0), "`a_bits: [2, 8]`"),
        ({"w_bits": None, "keep": None}, Budgets(bytes=0.5), "`w_bits: [2, 8]`"),
    ],
)
def test_a_budget_on_what_is_not_searched_is_refused(options: dict[str, Any], budgets: Budgets, needed: str) -> None:
    with pytest.raises(UsageError, match="nothing that is searched changes it") as caught:
        space_of(budgets=budgets, **options)
    assert caught.value.code == "MC482"
    assert needed in caught.value.hint


def test_a_range_without_room_is_nothing_to_search() -> None:
    with pytest.raises(UsageError) as caught:
        space_of(w_bits=(4, 4), a_bits=None, keep=(1.0, 1.0))
    assert caught.value.code == "MC480"


def test_a_share_of_a_budget_is_of_the_float_network() -> None:
    counted = count(MODEL, (images(),))
    found = space_of(budgets=Budgets(macs=0.5, params=0.75, bytes=0.25))
    limits = {budget.name: budget.limit for budget in found.space.budgets}
    assert limits == {
        "macs": pytest.approx(counted.macs / 2),
        "params": pytest.approx(counted.params * 0.75),
        "bytes": pytest.approx(counted.params),  # a quarter of four bytes each
    }


def test_latency_runs_along_the_macs_between_two_networks_that_were_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    def measured(model: nn.Module, *_: object, batch: int, threads: int) -> Any:
        assert (batch, threads) == (1, 1)
        return type("Found", (), {"median_ms": 2.0 + count(model, (images(),)).macs / 1e5})()

    monkeypatch.setattr("mcomp.metrics.model_latency", measured)
    known = space_of(w_bits=None, a_bits=None, budgets=Budgets(latency_ms=4.0))
    for seed in range(4):
        genome = drawn(known, seed)
        said = known.costs_of(genome)
        assert said["latency_ms"] == pytest.approx(2.0 + said["macs"] / 1e5)
        assert said["latency_ms"] <= 4.0 * (1 + 1e-9)
    assert "latency_ms" in space_of(time=True).costs
    assert "latency_ms" not in space_of().costs


def test_a_slower_small_network_gives_a_latency_that_no_gene_raises_as_it_falls(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    times = iter([3.0, 3.5])
    monkeypatch.setattr("mcomp.metrics.model_latency", lambda *_, **__: type("Found", (), {"median_ms": next(times)})())
    known = space_of(time=True)
    assert known.costs_of(known.space.top())["latency_ms"] == known.costs_of(known.space.lowest())["latency_ms"] == 3.5
