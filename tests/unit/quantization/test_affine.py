from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from mcomp.errors import StageError, UsageError
from mcomp.quantization.integers import MIN_SCALE
from mcomp.quantization.observers import MovingAverageObserver
from mcomp.quantization.quantizers import AffineQuantizer
from tests.unit.quantization.quantization_nets import bits, tensors
from tests.unit.quantization.quantizer_formulas import F32, inside_by_hand, values_by_hand

ends = st.tuples(st.floats(-100, 100, width=32), st.floats(-100, 100, width=32)).map(sorted)


def grid_by_hand(low: float, high: float, k: int, symmetric: bool, signed: bool) -> tuple[float, int, int, int]:
    """Scale, zero point, qmin and qmax."""
    if symmetric:
        top = 2 ** (k - 1) - 1 if signed else 2**k - 1
        largest = max(-low, high) if signed else max(high, 0.0)
        return max(float(F32(largest) / F32(top)), MIN_SCALE), 0, -top if signed else 0, top
    qmin = -(2 ** (k - 1)) if signed else 0
    steps = 2**k - 1
    low, high = min(low, 0.0), max(high, 0.0)
    scale = max(float(F32(high) / F32(steps) - F32(low) / F32(steps)), MIN_SCALE)
    zero = int(np.clip(np.rint(F32(qmin) - F32(low) / F32(scale)), qmin, qmin + steps))
    return scale, zero, qmin, qmin + steps


@given(tensors(), bits, st.booleans(), st.booleans())
def test_a_weights_own_range_gives_the_formulas_values(w: Tensor, k: int, symmetric: bool, per_channel: bool) -> None:
    found = AffineQuantizer(k, symmetric, 0 if per_channel else None)(w).numpy()
    rows = w.reshape(len(w), -1) if per_channel else w.reshape(1, -1)
    for row, mine in zip(rows, found.reshape(rows.shape), strict=True):
        scale, zero, qmin, qmax = grid_by_hand(float(row.min()), float(row.max()), k, symmetric, True)
        assert np.array_equal(mine, values_by_hand(row, scale, qmin - zero, qmax - zero))


@given(tensors(), bits, st.booleans(), st.sampled_from([None, 0]))
def test_a_weight_on_its_own_range_is_never_clipped(w: Tensor, k: int, symmetric: bool, axis: int | None) -> None:
    quantizer = AffineQuantizer(k, symmetric, axis)
    upstream = torch.randn_like(w)
    found = quantizer(w.requires_grad_())
    found.backward(upstream)
    assert torch.equal(w.grad, upstream)
    scale = quantizer.integer(w.detach()).scale.max()
    # half a step; a range whose two ends are rounded may lose another half
    assert (
        float((found - w).detach().abs().max())
        <= float(scale) * (0.5 if symmetric else 1.0) * (1 + 1e-5 * 2**k) + 1e-30
    )


@given(tensors(), bits, ends, st.booleans(), st.booleans())
def test_a_held_range_gives_the_formulas_values_and_gradients(
    x: Tensor, k: int, ends: tuple[float, float], symmetric: bool, signed: bool
) -> None:
    quantizer = AffineQuantizer(k, symmetric, observer="minmax", signed=signed)
    quantizer.set_range(*ends)
    scale, zero, qmin, qmax = grid_by_hand(*ends, k, symmetric, signed)
    assert quantizer.qparams() == type(quantizer.qparams())(scale, zero, qmin, qmax)
    quantizer.eval()
    expected = values_by_hand(x, scale, qmin - zero, qmax - zero)
    assert np.array_equal(quantizer(x).numpy(), expected)
    leaf, upstream = x.clone().requires_grad_(), torch.randn_like(x)
    quantizer(leaf).backward(upstream)
    inside = inside_by_hand(x, scale, qmin - zero, qmax - zero)
    assert np.array_equal(leaf.grad.numpy(), upstream.numpy() * inside)


@given(ends, bits, st.booleans())
def test_zero_stays_zero_on_every_asymmetric_grid(ends: tuple[float, float], k: int, signed: bool) -> None:
    quantizer = AffineQuantizer(k, False, observer="minmax", signed=signed)
    quantizer.set_range(*ends)
    grid = quantizer.qparams()
    assert grid.qmin <= grid.zero_point <= grid.qmax
    assert quantizer.eval()(torch.zeros(1)).item() == 0


@given(st.integers(-8, 4), st.integers(-128, 127), st.integers(1, 200))
@settings(max_examples=30)
def test_it_agrees_with_torchs_own_operators_where_scales_are_powers_of_two(power: int, zero: int, seed: int) -> None:
    x = torch.randn(3, 50, generator=torch.Generator().manual_seed(seed)) * 2.0 ** (power + 6)
    quantizer = AffineQuantizer(8, False, observer="minmax").eval()
    scale = 2.0**power
    quantizer.set_range((-128 - zero) * scale, (127 - zero) * scale)
    mine, theirs = x.clone().requires_grad_(), x.clone().requires_grad_()
    found = quantizer(mine)
    expected = torch.fake_quantize_per_tensor_affine(theirs, scale, zero, -128, 127)
    assert torch.equal(found, expected)
    found.sum().backward()
    expected.sum().backward()
    inside_both = ((x / scale + zero).frac() != 0.5) | (
        mine.grad == theirs.grad
    )  # torch's mask is of the rounded level
    apart = (mine.grad != theirs.grad) & inside_both
    # ours ends where the range ends; torch's a half step later, where rounding does
    assert (((x / scale + zero) > 127) | ((x / scale + zero) < -128))[apart].all()
    peak = torch.tensor([[127.0], [127.0 / 4], [127.0 * 8]])
    rows = torch.cat([x / x.abs().amax(1, keepdim=True) * peak, peak], 1)
    expected = torch.fake_quantize_per_channel_affine(
        rows, (peak / 127).flatten(), torch.zeros(3, dtype=torch.int32), 0, -128, 127
    )
    assert torch.equal(AffineQuantizer(channel_axis=0)(rows), expected)


def test_a_dead_channel_gives_zeros_and_a_sound_scale() -> None:
    w = torch.randn(3, 4)
    w[1] = 0
    integer = AffineQuantizer(channel_axis=0).integer(w)
    assert float(integer.scale.min()) == MIN_SCALE
    assert not integer.dequantize()[1].any()
    asymmetric = AffineQuantizer(8, False, 0)(w)
    assert torch.isfinite(asymmetric).all()


@given(tensors(), st.integers(0, 3))
def test_any_axis_can_have_a_scale_per_entry(w: Tensor, axis: int) -> None:
    axis = min(axis, w.dim() - 1)
    first = AffineQuantizer(channel_axis=0)(w.movedim(axis, 0).contiguous())
    quantizer = AffineQuantizer(channel_axis=axis)
    assert torch.equal(quantizer(w), first.movedim(0, axis))
    assert torch.equal(AffineQuantizer(channel_axis=axis - w.dim())(w), quantizer(w))
    assert torch.equal(quantizer.integer(w).dequantize(), quantizer(w))


def test_a_large_weight_is_quantised_row_by_row_to_the_same_bits() -> None:
    w = torch.randn(70, 64, 9, 9)
    expected = torch.cat([AffineQuantizer()(row[None]) for row in w])
    for each in (w, w.contiguous(memory_format=torch.channels_last)):
        found = AffineQuantizer(channel_axis=0)(each)
        assert torch.equal(found, expected)
        assert found.stride() == each.stride()
        assert torch.equal(AffineQuantizer(8, False, 0).integer(each).dequantize(), AffineQuantizer(8, False, 0)(each))


def test_a_moving_average_moves_in_training_alone_and_stops_when_frozen() -> None:
    quantizer = AffineQuantizer(observer="moving_average")
    quantizer.train()(torch.tensor([-1.0, 2.0]))
    assert quantizer.clip == pytest.approx(2)
    quantizer(torch.tensor([-12.0, 12.0]))
    assert quantizer.clip == pytest.approx(2 + 0.01 * 10)
    before = {key: value.clone() for key, value in quantizer.state_dict().items()}
    quantizer.eval()(torch.tensor([99.0]))
    quantizer.freeze()
    quantizer.train()(torch.tensor([99.0]))
    after = quantizer.state_dict()
    assert all(torch.equal(after[key], value) for key, value in before.items())
    assert after.keys() - before.keys() == {"range_frozen"}


def test_a_moving_average_goes_on_from_the_calibrated_range() -> None:
    quantizer = AffineQuantizer(observer="moving_average")
    quantizer.set_range(-4.0, 4.0)
    quantizer.train()(torch.tensor([8.0]))
    assert quantizer.clip == pytest.approx(4 + 0.04)


def test_a_channel_per_scale_of_an_activation_is_sized_by_the_first_batch_and_by_a_checkpoint() -> None:
    quantizer = AffineQuantizer(8, False, 1, "minmax")
    x = torch.randn(4, 3, 5)
    quantizer.train()(x)
    assert quantizer.scale.shape == quantizer.zero_point.shape == (3,)
    fresh = AffineQuantizer(8, False, 1, "minmax")
    fresh.load_state_dict(quantizer.state_dict())
    assert torch.equal(fresh.eval()(x), quantizer.eval()(x))
    leaf = x.clone().requires_grad_()
    fresh(leaf).sum().backward()
    grid = fresh.qparams()
    assert isinstance(grid.scale, Tensor)
    for channel in range(3):
        one = AffineQuantizer(8, False, None, "minmax").eval()
        one.set_range(float(x[:, channel].min()), float(x[:, channel].max()))
        assert torch.equal(one(x[:, channel]), fresh(x)[:, channel])


def test_unsigned_ranges_at_run_time_clip_what_is_negative() -> None:
    x = torch.tensor([-1.0, 0.0, 2.0], requires_grad=True)
    found = AffineQuantizer(8, signed=False)(x)
    found.sum().backward()
    assert found.tolist() == [0, 0, 2]
    assert x.grad.tolist() == [0, 1, 1]


@pytest.mark.parametrize("poison", [float("inf"), float("nan")])
@pytest.mark.parametrize("options", [{}, {"channel_axis": 0}, {"observer": "minmax"}, {"observer": "mse"}])
def test_values_that_are_not_numbers_are_refused_by_name(poison: float, options: dict) -> None:  # type: ignore[type-arg]
    quantizer = AffineQuantizer(8, **options).train()
    quantizer.name = "conv7"
    with pytest.raises(StageError, match="inf or nan at `conv7`"):
        quantizer(torch.tensor([[1.0, poison], [0.0, 1.0]]))


def test_what_does_not_exist_is_refused() -> None:
    for wrong in ({"bits": 1}, {"observer": "median"}, {"observer": "mse", "channel_axis": 0}):
        with pytest.raises(UsageError):
            AffineQuantizer(**wrong)  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="comes from each tensor"):
        AffineQuantizer().qparams()
    with pytest.raises(TypeError):
        AffineQuantizer().set_range(0, 1)


def test_the_observer_is_a_module_whose_state_is_saved() -> None:
    quantizer = AffineQuantizer(observer="moving_average")
    assert isinstance(quantizer.observer, MovingAverageObserver)
    assert set(quantizer.state_dict()) == {"scale", "zero_point", "initialised", "observer.low", "observer.high"}
    assert not AffineQuantizer(channel_axis=0).state_dict()
