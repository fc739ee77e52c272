from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from mcomp.errors import StageError, UsageError
from mcomp.quantization.asymmetric_ranges import asymmetric_range
from mcomp.quantization.observers import (
    OBSERVERS,
    FloatHistogram,
    MinMaxObserver,
    MovingAverageObserver,
    build_observer,
)
from mcomp.quantization.ranges import clip_range
from tests.unit.quantization.quantization_nets import tensors

METHODS = ("minmax", "percentile", "mse", "entropy")


def counted(*parts: Tensor) -> FloatHistogram:
    histogram = FloatHistogram()
    for part in parts:
        histogram.update(part)
    return histogram


@given(tensors(), tensors())
def test_merging_equals_counting_everything_in_one_go(a: Tensor, b: Tensor) -> None:
    merged = counted(b)
    merged.merge(counted(a))
    together = counted(a, b)
    assert torch.equal(merged.counts, together.counts)
    assert (merged.low, merged.high) == (together.low, together.high)


@given(tensors())
def test_every_value_lies_in_its_bin_and_no_bin_is_wide(x: Tensor) -> None:
    lower, upper, counts = counted(x).magnitudes(signed=True)
    assert int(counts.sum()) == x.numel()
    assert ((upper - lower) <= 0.0079 * lower + 1e-37).all()
    values = np.sort(x.abs().flatten().double().numpy())
    edges = np.repeat(np.stack([lower.numpy(), upper.numpy()], 1), counts.long().numpy(), axis=0)
    assert (values >= edges[:, 0]).all()
    assert (values <= edges[:, 1] + 1e-37).all()


@pytest.mark.parametrize("poison", [float("inf"), float("-inf"), float("nan")])
def test_values_that_are_not_numbers_are_refused_and_nothing_is_counted(poison: float) -> None:
    histogram = FloatHistogram()
    with pytest.raises(StageError, match="`conv3`"):
        histogram.update(torch.tensor([1.0, poison]), "conv3")
    assert histogram.empty


def test_large_tensors_are_sampled_but_their_extremes_are_exact() -> None:
    x = torch.randn(2_000_003)
    x[1234567] = 1000.0
    histogram = counted(x)
    assert histogram.high == 1000.0
    assert 200_000 < int(histogram.counts.sum()) < 600_000


@given(tensors(), st.sampled_from(METHODS), st.sampled_from([1, 3, 7, 127, 255, 32767]), st.booleans())
@settings(max_examples=60)
def test_a_clip_is_never_above_the_largest_value_nor_nothing(x: Tensor, method: str, levels: int, signed: bool) -> None:
    clip = clip_range(counted(x), method, levels, signed)  # type: ignore[arg-type]
    largest = float(x.abs().max()) if signed else max(float(x.max()), 0.0)
    assert 0 <= clip <= largest * (1 + 1e-12)
    assert clip > 0 or largest == 0


@pytest.mark.parametrize("levels", [1, 7, 127, 255])
def test_least_squares_is_as_good_as_a_search_over_the_true_values(levels: int) -> None:
    x = torch.randn(20_000, generator=torch.Generator().manual_seed(0)).double()

    def error(clip: float) -> float:
        scale = clip / levels
        return float(((x / scale).round().clamp(-levels, levels) * scale - x).square().mean())

    best = min(error(clip) for clip in np.linspace(0.05, 1, 200) * float(x.abs().max()))
    found = clip_range(counted(x.float()), "mse", levels, signed=True)
    assert error(found) <= 1.02 * best


def test_the_percentile_drops_a_lone_outlier_and_min_max_does_not() -> None:
    x = torch.cat([torch.rand(100_000), torch.tensor([50.0])])
    assert clip_range(counted(x), "minmax", 255, signed=False) == 50.0
    assert clip_range(counted(x), "percentile", 255, signed=False) == pytest.approx(1.0, abs=0.01)


def test_the_entropy_of_a_long_tail_is_clipped_and_that_of_a_box_is_not() -> None:
    generator = torch.Generator().manual_seed(0)
    tail = torch.empty(200_000).exponential_(generator=generator)
    box = torch.rand(200_000, generator=generator)
    assert clip_range(counted(tail), "entropy", 127, signed=False) < 0.9 * float(tail.max())
    assert clip_range(counted(box), "entropy", 127, signed=False) > 0.9


def test_negative_values_count_as_zero_on_an_unsigned_grid() -> None:
    x = torch.tensor([-5.0, 1.0, 2.0])
    assert clip_range(counted(x), "minmax", 255, signed=False) == 2.0
    assert clip_range(counted(-x.abs()), "mse", 255, signed=False) == 0.0


def test_an_unknown_method_is_refused() -> None:
    with pytest.raises(UsageError, match="klm"):
        clip_range(counted(torch.ones(1)), "klm", 127, signed=True)  # type: ignore[arg-type]


@given(tensors(), st.sampled_from(METHODS), st.sampled_from([3, 15, 255, 65535]))
@settings(max_examples=60)
def test_an_asymmetric_range_holds_zero_and_stays_inside_the_extremes(x: Tensor, method: str, steps: int) -> None:
    low, high = asymmetric_range(counted(x), method, steps)  # type: ignore[arg-type]
    assert min(float(x.min()), 0) * (1 + 1e-12) <= low <= 0 <= high <= max(float(x.max()), 0) * (1 + 1e-12)
    assert low < high or not x.any()


@pytest.mark.parametrize("steps", [3, 15, 255])
def test_asymmetric_least_squares_is_as_good_as_a_search_over_the_true_values(steps: int) -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.nn.functional.silu(3 * torch.randn(20_000, generator=generator)).double()

    def error(low: float, high: float) -> float:
        scale = (high - low) / steps
        zero = round(-low / scale)
        return float((((x / scale).round() + zero).clamp(0, steps) - zero).mul(scale).sub(x).square().mean())

    ends = np.linspace(0.05, 1, 40)
    best = min(error(float(x.min()) * a, float(x.max()) * b) for a in ends for b in ends)
    found = asymmetric_range(counted(x.float()), "mse", steps)
    assert error(*found) <= 1.05 * best


def test_an_asymmetric_percentile_drops_a_lone_outlier_at_each_end() -> None:
    x = torch.cat([torch.rand(100_000) - 0.25, torch.tensor([50.0, -90.0])])
    assert asymmetric_range(counted(x), "minmax", 255) == (-90.0, 50.0)
    assert asymmetric_range(counted(x), "percentile", 255) == pytest.approx((-0.25, 0.75), abs=0.01)
    low, high = asymmetric_range(counted(x), "entropy", 255)
    assert low > -90
    assert high < 50


@given(tensors())
def test_signed_bins_hold_the_values_in_rising_order(x: Tensor) -> None:
    lower, upper, counts = counted(x).values()
    values = np.sort(x.flatten().double().numpy())
    edges = np.repeat(np.stack([lower.numpy(), upper.numpy()], 1), counts.long().numpy(), axis=0)
    assert (values >= edges[:, 0] - 1e-37).all()
    assert (values <= edges[:, 1] + 1e-37).all()


@given(tensors())
def test_a_packed_histogram_is_the_same_histogram(x: Tensor) -> None:
    histogram = counted(x)
    packed = histogram.packed()
    assert packed[0].numel() <= x.numel()
    again = FloatHistogram.unpacked(*packed)
    assert torch.equal(again.counts, histogram.counts)
    assert (again.low, again.high) == (histogram.low, histogram.high)


@given(tensors(), st.sampled_from([None, 0, -1]), st.booleans())
def test_min_max_is_exact_per_tensor_and_per_channel_and_merges(x: Tensor, axis: int | None, signed: bool) -> None:
    observer, other = MinMaxObserver(axis), MinMaxObserver(axis)
    assert observer.empty
    observer.update(x)
    other.update(x * -2)
    observer.merge(other)
    both = torch.stack([x, x * -2])
    if axis is not None:
        both = both.movedim(1 if axis == 0 else -1, 0)
    rows = both.reshape(both.shape[0], -1).numpy() if axis is not None else both.reshape(1, -1).numpy()
    low, high = observer.range(255)
    assert np.array_equal(np.ravel(low), np.minimum(rows.min(1), 0))
    assert np.array_equal(np.ravel(high), np.maximum(rows.max(1), 0))
    expected = np.abs(rows).max(1) if signed else np.maximum(rows.max(1), 0)
    assert np.array_equal(np.ravel(observer.clip(127, signed)), expected)


def test_a_moving_average_takes_the_first_batch_whole_and_then_a_share_of_each() -> None:
    observer = MovingAverageObserver(momentum=0.25)
    for x in ([-4.0, 8.0], [0.0, 0.0], [-8.0, 4.0]):
        observer.update(torch.tensor(x))
    assert observer.range(255) == (pytest.approx(-4 * 0.75 * 0.75 - 2), pytest.approx(8 * 0.75 * 0.75 + 1))


@pytest.mark.parametrize("name", OBSERVERS)
def test_every_observer_refuses_nan_by_name_and_ignores_what_is_empty(name: str) -> None:
    observer = build_observer(name)
    observer.update(torch.zeros(0))
    assert observer.empty
    with pytest.raises(StageError, match="`conv3`"):
        observer.update(torch.tensor([1.0, float("nan")]), "conv3")
    assert observer.empty
    assert observer(torch.ones(3)).tolist() == [1, 1, 1]
    assert not observer.empty
    assert float(observer.clip(127, True)) == pytest.approx(1, rel=0.01)


@pytest.mark.parametrize("name", ["minmax", "moving_average"])
def test_what_was_seen_survives_a_state_dict_and_goes_on(name: str) -> None:
    observer, fresh = build_observer(name, 1), build_observer(name, 1)
    observer.update(torch.randn(4, 3))
    fresh.load_state_dict(observer.state_dict())
    assert not fresh.empty
    later = torch.randn(4, 3) * 5
    observer.update(later)
    fresh.update(later)
    assert all(torch.equal(mine, theirs) for mine, theirs in zip(observer.range(9), fresh.range(9), strict=True))
    unseen = build_observer(name)
    unseen.load_state_dict(build_observer(name).state_dict())
    assert unseen.empty


def test_observers_that_do_not_exist_are_refused() -> None:
    with pytest.raises(UsageError, match="median"):
        build_observer("median")
    with pytest.raises(UsageError, match="per channel"):
        build_observer("entropy", 0)
