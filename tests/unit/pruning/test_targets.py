"""What a target says, and where a schedule wants to be on the way to it."""

from __future__ import annotations

import itertools
import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mcomp.pruning.targets import Target, amount_of, target_of


@pytest.mark.parametrize(
    ("value", "expected"),
    [(0.3, (0.3, True)), (20_000.5, (20_000.5, False)), (250_000, (250_000.0, False)), ("250K", (250_000.0, False)),
     ("1.2G", (1.2e9, False)), (" 3 M ", (3e6, False)),
     ("20k", (20_000.0, False)), ("57 k", (57_000.0, False)), ("1.2 g", (1.2e9, False)), ("1.5m", (1.5e6, False))],
)  # fmt: skip
def test_below_one_is_a_share_and_a_suffix_counts(value: float | str, expected: tuple[float, bool]) -> None:
    assert amount_of(value) == expected


@pytest.mark.parametrize("value", [0, -1.0, "0.3", "12", "3X", "K", "0K", "", "1e6", math.inf])
def test_what_is_no_quantity_is_refused_with_an_example(value: float | str) -> None:
    with pytest.raises(ValueError, match="such as `250K`"):
        amount_of(value)


@pytest.mark.parametrize("value", [1, 1.0])
def test_one_may_be_a_share_or_a_count_and_is_refused(value: float) -> None:
    with pytest.raises(ValueError, match=r"write `0\.99` or a count"):
        amount_of(value)


@pytest.mark.parametrize("value", [1.5, 40.5])
def test_a_share_lies_below_one_and_a_count_is_whole(value: float) -> None:
    with pytest.raises(ValueError, match="neither a share, which lies below 1, nor a count"):
        amount_of(value)


@pytest.mark.parametrize("value", [True, None, [1], "1"])
def test_what_is_no_number_is_no_quantity(value: Any) -> None:
    with pytest.raises(ValueError, match="no quantity"):
        amount_of(value)


def test_a_percentage_is_told_as_a_share() -> None:
    with pytest.raises(ValueError, match=r"write `0\.4`"):
        amount_of("40%")
    with pytest.raises(ValueError, match=r"`ratio` is '50%'; write `0\.5`"):
        target_of({"ratio": "50%"})


def test_two_targets_exclude_one_another() -> None:
    with pytest.raises(ValueError, match="`macs` and `latency_ms` exclude one another"):
        target_of({"ratio": None, "macs": 0.3, "latency_ms": 5.0})


@pytest.mark.parametrize("given_", [{"ratio": 1.0}, {"ratio": 0.0}, {"latency_ms": 0.0}, {"ratio": "0.5"}])
def test_amounts_outside_their_range_are_refused(given_: dict[Any, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(given_))):
        target_of(given_)


@given(st.floats(0.01, 0.99), st.integers(1, 9), st.floats(1e3, 1e12))
def test_what_is_kept_shrinks_by_the_same_factor_in_each_step_and_ends_at_the_target(
    share: float, steps: int, whole: float
) -> None:
    for target, kept in (
        (Target("ratio", 1 - share), lambda aim: 1 - aim.amount),
        (Target("macs", share, share=True), lambda aim: aim.goal(whole) / whole),
        (Target("params", share * whole), lambda aim: aim.goal(whole) / whole),
    ):
        found = [1.0, *(kept(target.after(step, steps, whole)) for step in range(1, steps + 1))]
        assert found[-1] == pytest.approx(share)
        for before, after in itertools.pairwise(found):
            assert after / before == pytest.approx(share ** (1 / steps))
