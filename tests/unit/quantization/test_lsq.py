from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from mcomp.errors import StageError
from mcomp.quantization.integers import MIN_SCALE
from mcomp.quantization.pieces import PIECE
from mcomp.quantization.quantizers import LSQPlusQuantizer, LSQuantizer, PACTQuantizer
from tests.unit.quantization.quantization_nets import bits, tensors
from tests.unit.quantization.quantizer_formulas import F32, inside_by_hand, learned_by_hand, values_by_hand

scales = st.floats(2.0**-10, 10, width=32)


def near(found: Tensor, expected: float, size: float) -> None:
    """Equal to float32 sums over the magnitudes that went in."""
    assert float(found) == pytest.approx(expected, rel=1e-4, abs=2e-5 * size + 1e-12)


@given(tensors(), bits, st.booleans(), st.booleans(), scales)
def test_lsq_values_and_both_gradients_follow_the_paper(
    x: Tensor, k: int, signed: bool, of_weight: bool, scale: float
) -> None:
    qn, qp = (2 ** (k - 1), 2 ** (k - 1) - 1) if signed else (0, 2**k - 1)
    quantizer = LSQuantizer(k, signed, of_weight=of_weight)
    quantizer.set_range(0, scale * qp)
    step = float(quantizer.scale.detach())
    leaf, upstream = x.clone().requires_grad_(), torch.randn_like(x)
    found = quantizer(leaf)
    assert np.array_equal(found.detach().numpy(), values_by_hand(x, step, -qn, qp))
    assert torch.equal(quantizer.eval()(x), found.detach())
    found.backward(upstream)
    assert np.array_equal(leaf.grad.numpy(), upstream.numpy() * inside_by_hand(x, step, -qn, qp, closed=False))
    rounding, clipped, _ = learned_by_hand(x, upstream, step, -qn, qp)
    features = x.numel() if of_weight else x[0].numel()
    near(quantizer.scale.grad, (rounding + clipped) / math.sqrt(features * qp), float(upstream.abs().sum()) * qp)


def test_the_gradient_of_the_scale_at_its_ends_and_halves() -> None:
    quantizer = LSQuantizer(3, True, of_weight=True)  # -4..3
    quantizer.set_range(0, 3.0)
    for value, expected in ((-9, -4), (-4, -4), (-3.5, -0.5), (0.5, -0.5), (1.5, 0.5), (0.25, -0.25), (3, 3), (7, 3)):
        quantizer.scale.grad = None
        quantizer(torch.tensor([float(value)])).backward(torch.ones(1))
        assert float(quantizer.scale.grad) * math.sqrt(3) == pytest.approx(expected)


@given(tensors(), bits, st.booleans())
def test_the_scale_starts_at_twice_the_mean_over_the_root_of_the_largest_level(x: Tensor, k: int, signed: bool) -> None:
    quantizer = LSQuantizer(k, signed, of_weight=True)
    quantizer.train()(x)
    expected = 2 * np.abs(x.numpy().astype(np.float64)).mean() / math.sqrt(quantizer.qmax)
    assert float(quantizer.scale.detach()) == pytest.approx(max(expected, MIN_SCALE), rel=1e-5)
    assert quantizer.ready
    quantizer(x * 5)  # no second time
    assert float(quantizer.scale.detach()) == pytest.approx(max(expected, MIN_SCALE), rel=1e-5)


@pytest.mark.parametrize("scale", [0.0, -3.0, 1e-12])
def test_a_scale_that_an_optimiser_pushed_below_zero_is_harmless(scale: float) -> None:
    quantizer = LSQuantizer(4, True)
    quantizer.set_range(-1, 1)
    with torch.no_grad():
        quantizer.scale.fill_(scale)
    found = quantizer(torch.randn(5, requires_grad=True))
    found.sum().backward()
    assert torch.isfinite(found).all()
    assert torch.isfinite(quantizer.scale.grad)
    assert quantizer.qparams().scale == MIN_SCALE


def test_a_scale_that_is_nan_is_refused_by_name() -> None:
    for quantizer, parameter in ((LSQuantizer(4), "scale"), (PACTQuantizer(4), "alpha")):
        quantizer.name = "act3"
        quantizer.set_range(-1, 1)
        with torch.no_grad():
            getattr(quantizer, parameter).fill_(float("nan"))
        with pytest.raises(StageError, match="`act3` is nan"):
            quantizer.train()(torch.ones(2, requires_grad=True))


@given(tensors(), bits, st.tuples(st.floats(-20, 20, width=32), st.floats(-20, 20, width=32)).map(sorted))
def test_lsq_plus_values_and_all_gradients_follow_the_paper(x: Tensor, k: int, ends: tuple[float, float]) -> None:
    top = 2**k - 1
    quantizer = LSQPlusQuantizer(k)
    quantizer.set_range(*ends)
    step, offset = float(quantizer.scale.detach()), float(quantizer.offset.detach())
    assert step == pytest.approx(max((max(ends[1], 0) - min(ends[0], 0)) / top, MIN_SCALE), rel=1e-5)
    zero = int(np.clip(0 - np.rint(F32(offset) / F32(step)), 0, top))
    assert quantizer.qparams().zero_point == zero
    leaf, upstream = x.clone().requires_grad_(), torch.randn_like(x)
    found = quantizer(leaf)
    assert np.array_equal(found.detach().numpy(), values_by_hand(x, step, -zero, top - zero))
    found.backward(upstream)
    inside = inside_by_hand(x, step, -zero, top - zero, closed=False)
    assert np.array_equal(leaf.grad.numpy(), upstream.numpy() * inside)
    rounding, clipped, outside = learned_by_hand(x, upstream, step, -zero, top - zero)
    gain = 1 / math.sqrt(x[0].numel() * top)
    size = float(upstream.abs().sum()) * top
    near(quantizer.scale.grad, gain * (rounding + clipped + zero * outside), size)
    near(quantizer.offset.grad, gain * outside, float(upstream.abs().sum()))


@given(tensors(), bits, st.booleans(), scales)
def test_pact_values_and_both_gradients_follow_the_paper(x: Tensor, k: int, signed: bool, alpha: float) -> None:
    top = 2 ** (k - 1) - 1 if signed else 2**k - 1
    alpha = max(alpha, MIN_SCALE * top)  # below that the grid, and with it the clip, is that of the smallest scale
    quantizer = PACTQuantizer(k, signed)
    quantizer.set_range(-alpha, alpha)
    leaf, upstream = x.clone().requires_grad_(), torch.randn_like(x)
    found = quantizer(leaf)
    scale = float(max(F32(alpha) / F32(top), F32(MIN_SCALE)))
    assert np.array_equal(found.detach().numpy(), values_by_hand(x, scale, -top if signed else 0, top))
    found.backward(upstream)
    v = x.numpy()
    inside = (v > -F32(alpha)) & (v < F32(alpha)) if signed else (v >= 0) & (v < F32(alpha))
    assert np.array_equal(leaf.grad.numpy(), upstream.numpy() * inside)
    pull = upstream.double().numpy() * ((v >= F32(alpha)).astype(float) - (v <= -F32(alpha)) * signed)
    near(quantizer.alpha.grad, pull.sum(), float(upstream.abs().sum()))


@settings(max_examples=20)
@given(st.sampled_from(["expanded", "channels last", "transposed"]), st.booleans())
def test_upstream_gradients_of_another_layout_are_matched_element_by_element(kind: str, last: bool) -> None:
    x = torch.randn(3, 40, 60, 40)
    assert x.numel() > PIECE
    x = x.contiguous(memory_format=torch.channels_last) if last else x
    grad = {
        "expanded": torch.ones(()).expand(x.shape),
        "channels last": torch.randn(x.shape).contiguous(memory_format=torch.channels_last),
        "transposed": torch.randn(40, 3, 60, 40).transpose(0, 1),
    }[kind]
    found = []
    for upstream, tensor in ((grad, x), (grad.contiguous(), x.contiguous())):
        quantizer = LSQuantizer(4, True)
        quantizer.set_range(-1, 1)
        leaf = tensor.clone().requires_grad_()
        quantizer(leaf).backward(upstream)
        found.append((leaf.grad, quantizer.scale.grad))
    assert torch.equal(found[0][0], found[1][0])
    torch.testing.assert_close(found[0][1], found[1][1], rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("k", [2, 8, 9, 12])
@pytest.mark.parametrize("half", [False, True])
def test_the_gradient_of_the_scale_of_a_large_tensor_loses_nothing_that_matters(k: int, half: bool) -> None:
    x, upstream = (torch.randn(3 * PIECE + 5).to(torch.bfloat16 if half else torch.float32) for _ in range(2))
    quantizer = LSQuantizer(k, True, of_weight=True)
    quantizer.set_range(-3, 3)
    quantizer(x.requires_grad_()).backward(upstream)
    step = float(quantizer.scale.detach())
    ratio = x.detach().float().numpy() / F32(step)
    level = np.clip(np.rint(ratio), -quantizer.qmax - 1, quantizer.qmax)
    inside = (ratio > -quantizer.qmax - 1) & (ratio < quantizer.qmax)
    parts = upstream.double().numpy() * (level - x.detach().double().numpy() / step * inside)
    gain = math.sqrt(x.numel() * quantizer.qmax)
    assert abs(float(quantizer.scale.grad) * gain - parts.sum()) < 1e-3 * np.linalg.norm(parts)


def test_a_learned_scale_and_its_weights_fit_a_line() -> None:
    """Training the scale alone lowers the squared error of the rounding."""
    x = torch.randn(4000)
    quantizer = LSQuantizer(3, True, of_weight=True)
    quantizer(x)
    optimizer = torch.optim.SGD(quantizer.parameters(), lr=0.05)
    errors = []
    for _ in range(60):
        loss = (quantizer(x) - x).square().mean()
        optimizer.zero_grad()
        (loss * 4000).backward()
        optimizer.step()
        errors.append(float(loss.detach()))
    assert errors[-1] < 0.9 * errors[0]
