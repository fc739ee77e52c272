from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional as F

from mcomp.errors import UsageError
from mcomp.quantization.quantizers import (
    BinaryActivation,
    BinaryWeight,
    TernaryWeight,
    WeightQuantizer,
    XNORInputScale,
)
from tests.unit.quantization.quantization_nets import tensors


def binary_by_hand(w: Tensor, g: Tensor) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Centred weight, quantised weight and gradient, one filter at a time, in float64."""
    w64, g64 = w.double().numpy(), g.double().numpy()
    centred, value, grad = np.empty_like(w64), np.empty_like(w64), np.empty_like(w64)
    for f in range(len(w64)):
        rows = w64[f]
        if w64.ndim > 1 and w64.shape[1] > 1:
            rows = rows - rows.mean(0, keepdims=True)
        centred[f] = np.clip(rows, -1, 1)
        sign = np.where(centred[f] >= 0, 1.0, -1.0)
        scale = np.abs(centred[f]).mean()
        value[f] = scale * sign
        grad[f] = scale * g64[f] + sign / sign.size * (g64[f] * sign).sum()
    return centred, value, grad


@given(tensors())
def test_binary_weights_and_their_gradient_follow_the_formula(w: Tensor) -> None:
    g = torch.randn_like(w)
    centred, value, grad = binary_by_hand(w, g)
    found = BinaryWeight()(w.requires_grad_())
    found.backward(g)
    # a weight at its mean is 0 but for rounding, and may fall on either side: leave its filter out
    size = np.abs(w.detach().numpy()).max()
    sure = np.array(
        [(np.abs(row) > 1e-5 * size).all() or (not row.any() and not w[i].any()) for i, row in enumerate(centred)]
    )
    assert np.allclose(found.detach().numpy()[sure], value[sure], rtol=1e-4, atol=1e-30)
    assert np.allclose(w.grad.numpy()[sure], grad[sure], rtol=1e-3, atol=1e-5)
    assert torch.isfinite(w.grad).all()


@given(tensors())
def test_a_depthwise_filter_is_not_centred(w: Tensor) -> None:
    depthwise = w.reshape(len(w), 1, -1)
    signs = BinaryWeight().integer(depthwise).values
    alive = depthwise.abs().flatten(1).sum(1) > 0
    assert torch.equal(signs[alive] >= 0, depthwise[alive] >= 0)


@given(tensors())
def test_a_filter_of_zeros_gives_zeros(w: Tensor) -> None:
    zeros = torch.zeros_like(w)
    for quantizer in (BinaryWeight(), TernaryWeight()):
        leaf = zeros.clone().requires_grad_()
        found = quantizer(leaf)
        found.sum().backward()
        assert not found.any()
        assert torch.isfinite(leaf.grad).all()
        integer = quantizer.integer(zeros)
        assert not integer.values.any()
        assert float(integer.scale.min()) > 0


@given(tensors())
def test_ternary_weights_and_their_gradient_follow_the_formula(w: Tensor) -> None:
    g = torch.randn_like(w)
    found = TernaryWeight()(w.requires_grad_())
    found.backward(g)
    for row, up, mine, slope in zip(*(t.detach().double().numpy() for t in (w, g, found, w.grad)), strict=True):
        threshold = 0.7 * np.abs(row).mean()
        if (np.abs(np.abs(row) - threshold) <= 1e-5 * np.abs(row).max()).any() and row.any():
            continue  # on the threshold but for rounding
        kept = np.abs(row) > threshold
        signs = np.sign(row) * kept
        count = kept.sum()
        scale = np.abs(row)[kept].mean() if count else 0.0
        assert np.allclose(mine, scale * signs, rtol=1e-5, atol=1e-30)
        pull = signs / count * (up * signs).sum() if count else 0.0
        assert np.allclose(slope, scale * up + pull, rtol=1e-3, atol=1e-5)


@given(tensors(max_filters=8))
def test_each_filter_holds_one_magnitude_and_zero(w: Tensor) -> None:
    for quantizer in (BinaryWeight(), TernaryWeight()):
        for row in quantizer(w).reshape(len(w), -1):
            assert row[row != 0].abs().unique().numel() <= 1


@given(tensors(), st.sampled_from(["saturate_ste", "ste", "soft_ste"]), st.sampled_from(["pm1", "01"]))
def test_a_binary_activation_is_the_sign_with_the_gradient_asked_for(x: Tensor, ste: str, codes: str) -> None:
    x = torch.cat([x.flatten(), torch.tensor([0.0, -0.0, 1.0, -1.0, 0.5])]).requires_grad_()
    g = torch.randn_like(x)
    found = BinaryActivation(ste, codes)(x)  # type: ignore[arg-type]
    found.backward(g)
    v = x.detach().numpy()
    assert np.array_equal(found.detach().numpy(), np.where(v >= 0, 1.0, -1.0 if codes == "pm1" else 0.0))
    slope = {"ste": np.ones_like(v), "saturate_ste": (np.abs(v) < 1) * 1.0, "soft_ste": np.maximum(0, 1 - np.abs(v))}
    assert np.allclose(x.grad.numpy(), g.numpy() * slope[ste], rtol=1e-6, atol=0)
    assert torch.equal(BinaryActivation(ste, codes).eval()(x.detach()), found.detach())  # type: ignore[arg-type]


def test_the_exported_sign_is_the_same() -> None:
    x = torch.tensor([-2.0, -0.0, 0.0, 3.0])
    for codes in ("pm1", "01"):
        quantizer = BinaryActivation(codes=codes)  # type: ignore[arg-type]
        assert torch.equal(quantizer.warp()(x), quantizer(x))


def test_what_does_not_exist_is_refused() -> None:
    for wrong in ({"ste": "hard"}, {"codes": "02"}):
        with pytest.raises(UsageError):
            BinaryActivation(**wrong)  # type: ignore[arg-type]


@pytest.mark.parametrize(("stride", "padding"), [(1, 0), (1, 1), (2, 1)])
def test_the_input_scale_is_the_mean_over_channels_and_window(stride: int, padding: int) -> None:
    x = torch.randn(2, 5, 6, 7)
    expected = F.conv2d(x.abs(), torch.full((1, 5, 3, 3), 1 / 45), stride=stride, padding=padding)
    torch.testing.assert_close(XNORInputScale((3, 3), stride, padding)(x), expected)
    assert XNORInputScale((3,))(torch.randn(2, 5, 6)).shape == (2, 1, 4)


@pytest.mark.parametrize("quantizer", [BinaryWeight(), TernaryWeight()])
def test_a_large_weight_is_quantised_filter_by_filter(quantizer: WeightQuantizer) -> None:
    w, g = torch.randn(40, 96, 9, 9), torch.randn(40, 96, 9, 9)
    leaf = w.clone().requires_grad_()
    found = quantizer(leaf)
    found.backward(g)
    for f in (0, 17, 39):
        alone = w[f : f + 1].clone().requires_grad_()
        expected = quantizer(alone)
        expected.backward(g[f : f + 1])
        torch.testing.assert_close(found[f : f + 1], expected, rtol=1e-5, atol=0)
        torch.testing.assert_close(leaf.grad[f : f + 1], alone.grad, rtol=1e-4, atol=1e-6)
