from __future__ import annotations

import copy

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from mcomp.errors import StageError
from mcomp.quantization.integers import MIN_SCALE
from mcomp.quantization.quantizers import ActivationQuantizer
from tests.unit.quantization.quantization_nets import bits, tensors

clips = st.floats(1e-3, 1e3)


def ready(k: int, signed: bool, clip: float, levels: int | None = None, **options: bool) -> ActivationQuantizer:
    quantizer = ActivationQuantizer(k, signed, levels, **options)
    quantizer.set_clip(clip)
    return quantizer


@given(tensors(), bits, st.booleans(), clips)
def test_values_equal_a_division_a_rounding_and_a_product(x: Tensor, k: int, signed: bool, clip: float) -> None:
    quantizer = ready(k, signed, clip)
    q = quantizer.qparams()
    scale = torch.tensor(q.scale, dtype=torch.float32)
    expected = (x / scale).round().clamp(q.qmin, q.qmax) * scale
    assert torch.equal(quantizer(x), expected)
    assert torch.equal(quantizer(x.clone().requires_grad_()).detach(), expected)


@given(tensors(), bits, st.booleans(), clips)
def test_the_gradient_passes_inside_the_clip_range_and_nowhere_else(
    x: Tensor, k: int, signed: bool, clip: float
) -> None:
    quantizer = ready(k, signed, clip)
    ratio = x / quantizer.scale
    inside = (ratio >= quantizer.qmin) & (ratio <= quantizer.qmax)
    leaf, upstream = x.clone().requires_grad_(), torch.randn_like(x)
    quantizer(leaf).backward(upstream)
    assert torch.equal(leaf.grad, upstream * inside)


@given(tensors(), bits, clips)
def test_a_proven_sign_changes_neither_values_nor_gradients(x: Tensor, k: int, clip: float) -> None:
    found = []
    for proven in (False, True):
        leaf = x.abs().requires_grad_()
        out = ready(k, False, clip, nonnegative_input=proven)(leaf)
        out.backward(torch.ones_like(x))
        found.append((out.detach(), leaf.grad))
    assert torch.equal(found[0][0], found[1][0])
    assert torch.equal(found[0][1], found[1][1])


def test_the_ends_of_the_range_are_inside() -> None:
    x = torch.tensor([-1.0, 0.0, 1.0, 1.01], requires_grad=True)
    ready(8, True, 1.0)(x).sum().backward()
    assert x.grad.tolist() == [1, 1, 1, 0]


def test_it_agrees_with_torchs_own_operator_where_the_scale_is_a_power_of_two() -> None:
    x = torch.randn(1000) * 3
    quantizer = ready(8, False, 255 / 64)
    assert float(quantizer.scale) == 1 / 64
    assert torch.equal(quantizer(x), torch.fake_quantize_per_tensor_affine(x, 1 / 64, 0, 0, 255))


def test_levels_for_engines_without_unsigned_int8() -> None:
    quantizer = ready(8, False, 12.7, levels=127)
    assert (quantizer.qmin, quantizer.qmax) == (0, 127)
    assert float(quantizer.scale) == pytest.approx(0.1)


def test_a_tensor_of_zeros_gets_the_smallest_scale_not_none() -> None:
    assert float(ready(8, True, 0.0).scale) == MIN_SCALE


def test_bfloat16_is_quantised_in_float32_and_comes_back_as_bfloat16() -> None:
    x = torch.randn(64).bfloat16()
    quantizer = ready(4, True, 2.0)
    for tensor in (x, x.clone().requires_grad_()):
        found = quantizer(tensor)
        assert found.dtype == torch.bfloat16
        assert torch.equal(found, quantizer(x.float()).bfloat16())


def test_without_a_range_eval_refuses_and_training_takes_the_first_batch() -> None:
    quantizer = ActivationQuantizer(8, True)
    quantizer.name = "layer.3"
    with pytest.raises(StageError, match=r"`layer\.3` has no range"):
        quantizer.eval()(torch.ones(2))
    with pytest.raises(StageError):
        quantizer.qparams()
    quantizer.train()(torch.tensor([-3.0, 1.0]))
    assert quantizer.clip == pytest.approx(3.0)
    quantizer(torch.tensor([100.0]))
    assert quantizer.clip == pytest.approx(3.0)


def test_a_first_batch_of_nan_is_refused() -> None:
    with pytest.raises(StageError, match="inf or nan"):
        ActivationQuantizer(8, True).train()(torch.tensor([float("nan")]))


def test_the_range_survives_state_dict_and_deepcopy() -> None:
    quantizer = ready(8, False, 0.7)
    fresh = ActivationQuantizer(8, False)
    fresh.load_state_dict(quantizer.state_dict())
    x = torch.rand(100)
    for other in (fresh.eval(), copy.deepcopy(quantizer)):
        assert other.ready
        assert torch.equal(other(x), quantizer(x))


def test_channels_last_stays_channels_last() -> None:
    x = torch.rand(2, 3, 4, 4).contiguous(memory_format=torch.channels_last).requires_grad_()
    quantizer = ready(8, False, 1.0)
    assert quantizer(x).is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(quantizer(x), quantizer(x.contiguous()))
