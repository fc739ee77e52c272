"""The threshold and rounding rules, as laws."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from mcomp.pruning import prune, trace
from mcomp.pruning.allocation import Scope, above_threshold, ranking_of, rounded, tied_channels
from tests.unit.pruning.pruning_nets import block, head, images, seeded

scores = st.lists(st.floats(0, 1, width=32), min_size=1, max_size=50).map(torch.tensor)
ratios = st.floats(0.01, 0.99)


@given(st.lists(scores, min_size=1, max_size=4), ratios)
def test_a_global_threshold_keeps_what_lies_above_the_score_at_its_index(
    layers: list[torch.Tensor], ratio: float
) -> None:
    kept = above_threshold({str(i): layer for i, layer in enumerate(layers)}, ratio, {})
    every = sorted(value for layer in layers for value in layer.tolist())
    threshold = every[min(math.floor(len(every) * ratio + 1e-9), len(every) - 1)]
    assert kept == {str(i): sum(value > threshold for value in layer.tolist()) for i, layer in enumerate(layers)}


@given(scores, ratios)
def test_ties_never_keep_more_than_the_ratio_allows(layer: torch.Tensor, ratio: float) -> None:
    kept = above_threshold({"a": layer}, ratio, {})["a"]
    assert kept <= len(layer) - math.floor(len(layer) * ratio + 1e-9)


def test_equal_scores_all_go_and_the_layer_keeps_its_minimum() -> None:
    assert above_threshold({"a": torch.ones(10)}, 0.1, {}) == {"a": 0}
    assert rounded(0, 10, 1) == 1


def test_channels_that_tie_are_counted_only_where_they_matter() -> None:
    for layer, ties in ((torch.ones(100), 60), (torch.arange(100.0), 0)):
        assert tied_channels({"a": layer}, above_threshold({"a": layer}, 0.4, {}), 0.4) == ties


def test_a_decimal_ratio_lands_on_the_index_a_person_expects() -> None:
    assert above_threshold({"a": torch.arange(100.0)}, 0.29, {}) == {"a": 70}


@given(st.integers(0, 300), st.integers(1, 300), st.integers(1, 40), st.integers(1, 40))
def test_a_rounded_count_divides_fits_and_never_falls_below_the_minimum(
    kept: int, channels: int, base: int, least: int
) -> None:
    found = rounded(min(kept, channels), channels, base, least)
    assert 1 <= found <= channels
    assert found == channels or (found % base == 0 and found >= least)


@given(st.integers(0, 20), st.integers(1, 20))
def test_a_count_between_two_multiples_goes_to_the_nearer_and_a_tie_goes_up(multiple: int, base: int) -> None:
    assert rounded(multiple * base + base // 2, 10**6, base) == max(base, (multiple + (base % 2 == 0)) * base)


def like(*widths: int) -> nn.Module:
    """A stem, then blocks of one structure and two widths, in pairs that only a pointwise layer sets apart."""
    layers = [block(3, widths[0])]
    for before, width in itertools.pairwise(widths):
        layers += [block(before, width), block(width, width, 1)]
    return seeded(nn.Sequential(*layers, head(widths[-1])))


def test_isomorphic_layers_are_ranked_together_whatever_their_widths() -> None:
    model = like(8, 16, 24, 32)
    ranking = ranking_of(trace(model, (images(),)), "isomorphic")
    assert ranking["1.0"] == ranking["3.0"] == ranking["5.0"]
    assert ranking["2.0"] == ranking["4.0"]
    assert ranking["1.0"] != ranking["2.0"]


@pytest.mark.parametrize("scope", ["global", "per_layer", "isomorphic"])
def test_each_set_that_is_ranked_together_loses_the_ratio(scope: Scope) -> None:
    model = like(8, 16, 24, 32)
    groups = trace(model, (images(),))
    result = prune(model, (images(),), 0.5, scope=scope)
    sets: dict[str, list[str]] = {}
    for name, ranked in ranking_of(groups, scope).items():
        if name in result.kept:
            sets.setdefault(ranked, []).append(name)
    assert len(sets) == {"global": 1, "per_layer": 7, "isomorphic": 4}[scope]
    for names in sets.values():
        before = sum(result.widths[name] for name in names)
        assert sum(len(result.kept[name]) for name in names) == before // 2 - 1
    assert result.channels_before == sum(result.widths[name] for name in result.kept)
    assert result.channels_after == sum(map(len, result.kept.values()))


def test_equal_scores_fall_to_the_same_channels_every_time() -> None:
    model = like(8, 16)
    with torch.no_grad():
        model.get_submodule("1.1").weight.copy_(torch.arange(16) // 8 + 0.5)
    kept = [prune(model, (images(),), 0.4, scope="per_layer", regular=2).kept for _ in range(2)]
    assert kept[0] == kept[1]


def test_layers_half_way_between_two_widths_go_up_and_down_in_turn() -> None:
    model = seeded(nn.Sequential(*(block(a, b) for a, b in itertools.pairwise([3, 24, 24, 24, 24])), head(24)))
    result = prune(model, (images(),), 0.5, scope="per_layer", regular=8)
    assert [len(kept) for kept in result.kept.values()] == [16, 8, 16, 8]


def test_a_threshold_that_layers_share_decides_by_itself() -> None:
    model = seeded(nn.Sequential(block(3, 24), head(24)))
    result = prune(model, (images(),), 0.5, scope="global", regular=8)
    assert [len(kept) for kept in result.kept.values()] == [8]  # 11 lie above it, and 8 is nearer than 16
