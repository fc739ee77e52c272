from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from mcomp.errors import StageError, UsageError
from mcomp.quantization.observers import FloatHistogram
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
