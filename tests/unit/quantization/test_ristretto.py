from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from mcomp.errors import StageError, UsageError
from mcomp.quantization.observers import HistogramObserver, MinMaxObserver
from mcomp.quantization.quantizers import RistrettoQuantizer
from tests.unit.quantization.quantization_nets import bits, tensors
from tests.unit.quantization.quantizer_formulas import inside_by_hand, values_by_hand


def fl_by_hand(x: Tensor, k: int) -> int:
    largest = float(x.abs().max())
    return 23 if largest == 0 else min(k - (math.ceil(math.log2(largest)) + 1), 23)


def error_by_hand(x: Tensor, fl: int, k: int) -> float:
    v = x.double().numpy()
    kept = np.clip(np.rint(v * 2.0**fl), -(2 ** (k - 1)), 2 ** (k - 1) - 1) * 2.0**-fl
    return float(((kept - v) ** 2).sum())


@given(tensors(), bits)
def test_forbidding_overflow_covers_the_largest_magnitude(w: Tensor, k: int) -> None:
    quantizer = RistrettoQuantizer(k)
    fl = fl_by_hand(w, k)
    assert quantizer.fraction_bits(w) == fl
    upstream = torch.randn_like(w)
    found = quantizer(w.requires_grad_())
    assert np.array_equal(found.detach().numpy(), values_by_hand(w, 2.0**-fl, -(2 ** (k - 1)), 2 ** (k - 1) - 1))
    found.backward(upstream)
    assert torch.equal(w.grad, upstream)


@given(tensors(), bits)
def test_saturating_takes_the_least_squared_error(w: Tensor, k: int) -> None:
    found = RistrettoQuantizer(k, "saturate").fraction_bits(w)
    candidates = [min(fl_by_hand(w, k) + step, 23) for step in range(-1, 4)]
    assert found in candidates
    least = min(error_by_hand(w, fl, k) for fl in candidates)
    assert error_by_hand(w, found, k) <= least * (1 + 1e-9) + 1e-300


@given(tensors(), bits, st.floats(1e-3, 1e3))
def test_a_held_range_clips_and_so_does_its_gradient(x: Tensor, k: int, largest: float) -> None:
    quantizer = RistrettoQuantizer(k, observer="minmax").eval()
    quantizer.set_range(-largest, largest)
    scale = 2.0**-quantizer.fl
    leaf, upstream = x.clone().requires_grad_(), torch.randn_like(x)
    quantizer(leaf).backward(upstream)
    inside = inside_by_hand(x, scale, quantizer.qmin, quantizer.qmax)
    assert np.array_equal(leaf.grad.numpy(), upstream.numpy() * inside)


def test_calibration_finds_the_format_that_the_tensor_itself_would() -> None:
    x = torch.randn(5000)
    for overflow, observer in (("forbid", MinMaxObserver()), ("saturate", HistogramObserver("mse"))):
        observer.update(x)
        held = RistrettoQuantizer(8, overflow, "minmax")  # type: ignore[arg-type]
        held.fit(observer)
        assert held.fl == RistrettoQuantizer(8, overflow).fraction_bits(x)  # type: ignore[arg-type]
        assert f"{held.fl} fraction bits" in held.why()


def test_nan_is_refused_and_so_is_what_does_not_exist() -> None:
    with pytest.raises(StageError, match="inf or nan"):
        RistrettoQuantizer()(torch.tensor([float("nan")]))
    for wrong in ({"overflow": "wrap"}, {"bits": 1}, {"observer": "median"}):
        with pytest.raises(UsageError):
            RistrettoQuantizer(**wrong)  # type: ignore[arg-type]
