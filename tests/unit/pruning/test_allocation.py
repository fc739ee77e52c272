"""The threshold and rounding rules, as laws."""

from __future__ import annotations

import math

import torch
from hypothesis import given
from hypothesis import strategies as st

from mcomp.pruning.allocation import above_threshold, rounded, tied_channels

scores = st.lists(st.floats(0, 1, width=32), min_size=1, max_size=50).map(torch.tensor)
ratios = st.floats(0.01, 0.99)


@given(st.lists(scores, min_size=1, max_size=4), ratios)
def test_a_global_threshold_keeps_what_lies_above_the_score_at_its_index(
    layers: list[torch.Tensor], ratio: float
) -> None:
    kept = above_threshold({str(i): layer for i, layer in enumerate(layers)}, ratio, "global")
    every = sorted(value for layer in layers for value in layer.tolist())
    threshold = every[min(math.floor(len(every) * ratio + 1e-9), len(every) - 1)]
    assert kept == {str(i): sum(value > threshold for value in layer.tolist()) for i, layer in enumerate(layers)}


@given(scores, ratios)
def test_ties_never_keep_more_than_the_ratio_allows(layer: torch.Tensor, ratio: float) -> None:
    kept = above_threshold({"a": layer}, ratio, "per_layer")["a"]
    assert kept <= len(layer) - math.floor(len(layer) * ratio + 1e-9)


def test_equal_scores_all_go_and_the_layer_keeps_its_minimum() -> None:
    assert above_threshold({"a": torch.ones(10)}, 0.1, "global") == {"a": 0}
    assert rounded(0, 10, 1) == 1


def test_channels_that_tie_are_counted_only_where_they_matter() -> None:
    for layer, ties in ((torch.ones(100), 60), (torch.arange(100.0), 0)):
        assert tied_channels({"a": layer}, above_threshold({"a": layer}, 0.4, "global"), 0.4) == ties


def test_a_decimal_ratio_lands_on_the_index_a_person_expects() -> None:
    assert above_threshold({"a": torch.arange(100.0)}, 0.29, "global") == {"a": 70}


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
