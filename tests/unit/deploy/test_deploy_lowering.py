from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mcomp.deploy.activation_lowering import lower_activation
from mcomp.deploy.integer_form import ActivationSite, WeightSite
from mcomp.deploy.profiles import PROFILES, find_profile
from mcomp.deploy.weight_lowering import lower_weight
from mcomp.errors import UsageError

targets = st.sampled_from(list(PROFILES.values()))
scales = st.floats(1e-4, 10)


@st.composite
def activations(draw: st.DrawFn) -> ActivationSite:
    bits = draw(st.integers(2, 16))
    signed = draw(st.booleans())
    qmax = 2 ** (bits - 1) - 1 if signed else draw(st.sampled_from([2**bits - 1, 2 ** (bits - 1) - 1]))
    return ActivationSite("x", bits, draw(scales), 0, -qmax if signed else 0, qmax)


@given(activations(), targets)
def test_a_stored_activation_is_off_by_no_more_than_the_table_says(site: ActivationSite, target: object) -> None:
    grid = lower_activation(site, target)  # type: ignore[arg-type]
    scale = np.float32(site.scale)
    x = np.linspace(1.2 * site.qmin * scale - scale, 1.2 * site.qmax * scale + scale, 2001).astype(np.float32)
    simulated = np.clip(np.rint(x / scale), site.qmin, site.qmax) * scale
    if grid.dtype is None:
        stored = np.clip(x, *grid.bounds())
    else:
        limits = np.iinfo(grid.dtype)
        assert limits.min <= grid.low
        assert grid.high <= limits.max
        codes = np.clip(np.rint(x / grid.scale) + grid.zero_point, grid.low, grid.high)
        stored = (codes - grid.zero_point).astype(np.float32) * grid.scale
    error = float(np.abs(stored - simulated).max())
    assert error <= grid.row.max_abs_error * (1 + 1e-4) + 1e-6 * float(scale) * site.qmax
    assert grid.row.exact == (grid.row.max_abs_error == 0)
    assert grid.row.exact or grid.row.why


@given(st.integers(2, 8), scales)
def test_every_grid_of_at_most_eight_bits_is_exact_in_onnxruntime(bits: int, scale: float) -> None:
    for low, high in ((0, 2**bits - 1), (-(2 ** (bits - 1)) + 1, 2 ** (bits - 1) - 1)):
        grid = lower_activation(ActivationSite("x", bits, scale, 0, low, high), PROFILES["onnxruntime"])
        assert grid.row.exact
        assert grid.row.dtype == "uint8"


def test_255_levels_are_not_exact_in_tensorrt_and_127_are() -> None:
    target = PROFILES["tensorrt"]
    coarse = lower_activation(ActivationSite("x", 8, 0.01, 0, 0, 255), target)
    assert not coarse.row.exact
    assert coarse.high == 127
    assert "255 positive levels" in coarse.row.why
    assert lower_activation(ActivationSite("x", 8, 0.01, 0, 0, 127), target).row.exact


def test_an_asymmetric_activation_becomes_symmetric_for_tensorrt_and_says_so() -> None:
    grid = lower_activation(ActivationSite("x", 8, 0.01, 40, 0, 255), PROFILES["tensorrt"])
    assert grid.zero_point == 0
    assert not grid.row.exact
    assert "zero point 40" in grid.row.why


def _site(values: np.ndarray, scale: list[float], bits: int) -> WeightSite:
    return WeightSite("w", bits, values.astype(np.int32), np.asarray(scale, np.float32), True, 0.0, "")


@settings(max_examples=60)
@given(st.integers(2, 16), st.integers(1, 5), st.booleans(), st.integers(0, 2**31), targets)
def test_a_stored_weight_is_off_by_no_more_than_the_table_says(
    bits: int, channels: int, per_channel: bool, seed: int, target: object
) -> None:
    random = np.random.default_rng(seed)
    top = 2 ** (bits - 1) - 1
    values = random.integers(-top, top + 1, (channels, 3, 2))
    values[0] = 0  # a dead channel
    scale = random.uniform(1e-3, 1, channels if per_channel else 1).tolist()
    site = _site(values, scale, bits)
    grid = lower_weight(site, target)  # type: ignore[arg-type]
    wanted = values * np.asarray(scale, np.float32).reshape(-1, 1, 1)
    found = grid.values.astype(np.float64) * grid.scale.reshape(-1, 1, 1)
    assert (grid.scale > 0).all()
    error = float(np.abs(found - wanted).max())
    assert error <= grid.row.max_abs_error + 1e-6 * float(np.abs(wanted).max(initial=0))
    assert grid.row.exact
    if bits <= 8:
        assert grid.row.dtype == "int8"


def test_small_integers_are_widened_by_powers_of_two_so_that_int32_biases_are_fine() -> None:
    grid = lower_weight(_site(np.array([[7, -3], [1, 0]]), [0.5], 4), PROFILES["onnxruntime"])
    assert grid.values.tolist() == [[112, -48], [64, 0]]
    assert grid.scale.tolist() == [0.5 / 16, 0.5 / 64]


def test_the_papers_eight_bit_weights_are_rounded_to_int8_and_said_so() -> None:
    odd = np.arange(-255, 256, 2).reshape(2, -1)
    for target in PROFILES.values():
        grid = lower_weight(_site(odd, [1 / 255], 9), target)
        assert grid.row.dtype == "int8"
        assert not grid.row.exact
        assert 0 < grid.row.max_abs_error <= 0.5 / 127 + 1e-6


def test_weights_of_nine_bits_and_more_stay_float_in_tensorrt_and_int16_elsewhere() -> None:
    site = _site(np.array([[255, -8], [2, 0]]), [0.1], 9)
    assert lower_weight(site, PROFILES["onnxruntime"]).row.dtype == "int16"
    assert not lower_weight(site, PROFILES["tensorrt"]).quantised


def test_an_unknown_profile_is_refused_with_the_known_ones() -> None:
    with pytest.raises(UsageError, match="no profile `tensort`") as caught:
        find_profile("tensort")
    assert "tensorrt" in caught.value.hint
