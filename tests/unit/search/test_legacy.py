"""Printed lists and choices by name say the same, and a list that does not fit is refused."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from mcomp.errors import UsageError
from mcomp.models import build
from mcomp.pruning.repeated import RepeatedPruning
from mcomp.search.legacy import choice_of, legacy_lines, read_legacy
from mcomp.search.network import Layer, layers_of
from tests.unit.search.published_lists import A_BITS, KEEP, W_BITS

THREE = [Layer(name, 10, 10) for name in ("stem", "body", "head")]


def layers(name: str) -> list[Layer]:
    return layers_of(build(name, weightless=True), (torch.empty(1, 3, 32, 32, device="meta"),))


def test_the_published_bits_come_back_through_text_and_names() -> None:
    text = f"best so far: 69.8\nw_bit={W_BITS}\na_bit={A_BITS}\n"
    network = layers("resnet18")
    lists = read_legacy(text)
    assert lists == {"w_bits": W_BITS, "a_bits": A_BITS}
    choice = choice_of(lists, network)
    assert choice["stem.conv"] == {"w_bits": 8, "a_bits": 6}
    assert choice["stages.3.1.conv2.conv"] == {"w_bits": 1, "a_bits": 7}
    assert read_legacy("\n".join(legacy_lines(network, choice))) == lists


def test_the_published_shares_come_back_digit_for_digit() -> None:
    network = layers("resnet18_caffe")
    choice = choice_of(read_legacy(f"best_candidates_prune={KEEP}"), network)
    assert choice["fc"] == {"keep": 0.2972427183432819}
    assert legacy_lines(network, choice) == [f"best_candidates_prune={KEEP}"]


@given(
    st.lists(st.floats(0, 1, exclude_min=True), min_size=3, max_size=3),
    st.lists(st.integers(1, 32), min_size=3, max_size=3),
)
def test_any_lists_come_back(keep: list[float], bits: list[int]) -> None:
    lists: Any = {"keep": keep, "w_bits": bits}
    assert read_legacy("\n".join(legacy_lines(THREE, choice_of(lists, THREE)))) == lists


def test_what_no_layer_has_makes_no_line_and_what_one_layer_lacks_is_whole_and_float() -> None:
    assert legacy_lines(THREE, {"stem": {"w_bits": 8}, "body": {"keep": 0.25}}) == [
        "best_candidates_prune=[1.0, 0.25, 1.0]",
        "w_bit=[8, 32, 32]",
    ]
    assert legacy_lines(THREE, {}) == []


def test_a_share_of_coupled_layers_stands_at_each_of_them() -> None:
    model = build("resnet18", width=0.1)
    groups = RepeatedPruning(model, (torch.randn(2, 3, 32, 32),)).layers
    network = layers("resnet18")
    line = legacy_lines(network, {name: {"keep": 0.5} for name in groups}, groups)
    assert read_legacy(line[0]) == {"keep": [0.5] * 20 + [1.0]}  # the last makes the output
    stem = read_legacy(legacy_lines(network, {"stem.conv": {"keep": 0.5}}, groups)[0])["keep"]
    assert [place for place, share in enumerate(stem) if share == 0.5] == [0, 2, 4]


def test_of_two_lists_the_later_counts_and_layout_does_not() -> None:
    text = "w_bit=[2, 2]\n  w_bit = [ 8,\n 4.0, ]  # the best\nmy_w_bit=[1]"
    assert read_legacy(text) == {"w_bits": [8, 4]}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "the text holds no list of a search"),
        ("w_bits: 8", "the text holds no list of a search"),
        ("w_bit=[8, 4", "the list `w_bit` does not end"),
        ("w_bit=[8, 4.5]", "entry 2 of `w_bit` is `4.5`"),
        ("w_bit=[8, 0]", "entry 2 of `w_bit` is `0`"),
        ("a_bit=[8,,4]", "entry 2 of `a_bit` is ``"),
        ("a_bit=[nan]", "entry 1 of `a_bit` is `nan`"),
        ("a_bit=[exit()]", r"entry 1 of `a_bit` is `exit\(\)`"),
        ("best_candidates_prune=[1.5]", "entry 1 of `best_candidates_prune` is `1.5`"),
        ("best_candidates_prune=[0]", "entry 1 of `best_candidates_prune` is `0`"),
    ],
)
def test_a_text_that_is_no_such_list_is_refused(text: str, message: str) -> None:
    with pytest.raises(UsageError, match=message) as caught:
        read_legacy(text)
    assert caught.value.code == "MC480"


@pytest.mark.parametrize("count", [0, 2, 4])
def test_a_list_of_another_length_is_refused_with_both_lengths(count: int) -> None:
    with pytest.raises(UsageError, match=rf"`w_bit` lists {count} layers; the network calls 3") as caught:
        choice_of({"w_bits": [8] * count}, THREE)
    assert caught.value.code == "MC480"


def test_the_published_shares_of_the_variant_do_not_fit_the_usual_network() -> None:
    with pytest.raises(UsageError, match="`best_candidates_prune` lists 22 layers; the network calls 21"):
        choice_of({"keep": KEEP}, layers("resnet18"))


@pytest.mark.parametrize("choice", [{"stm": {"w_bits": 8}}, {"stem": {"bits": 8}}])
def test_a_choice_that_the_lists_have_no_place_for_is_refused(choice: dict[str, dict[str, float]]) -> None:
    with pytest.raises(UsageError, match="the lists have no place") as caught:
        legacy_lines(THREE, choice)
    assert caught.value.code == "MC481"
