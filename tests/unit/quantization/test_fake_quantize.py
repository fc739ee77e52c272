from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from mcomp.quantization.fake_quantize import fake_quantize, inside_bounds, pass_inside, snap
from mcomp.quantization.pieces import PIECE, elementwise, pieces, rows

scales = st.floats(2.0**-23, 2.0**99, width=32)


@given(scales, st.integers(-40000, 40000), st.booleans())
def test_the_limits_decide_as_the_quotient_does(scale: float, level: int, closed: bool) -> None:
    low, high = inside_bounds(scale, -abs(level), abs(level), closed=closed)
    step = np.float32(scale)
    x = np.float32(high)
    for _ in range(4):
        x = np.nextafter(x, np.float32(-np.inf))
    for _ in range(9):
        with np.errstate(over="ignore"):
            ratio = x / step
        # a quotient of 0 may hide a tiny x, which makes no difference to anyone
        if ratio or not x:
            assert (low < x < high) == bool(abs(ratio) <= abs(level) if closed else abs(ratio) < abs(level))
        x = np.nextafter(x, np.float32(np.inf))


def test_the_limits_of_a_scale_that_is_no_number_end_the_search() -> None:
    assert all(np.isnan(inside_bounds(float("nan"), -1, 1)))
    assert inside_bounds(float("inf"), -1, 1) == (-np.inf, np.inf)
    assert inside_bounds(3e38, -127, 127)[1] > 3e38


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_pieces_change_no_bit(layout: torch.memory_format, dtype: torch.dtype) -> None:
    x = torch.randn(3, 5, 250, 90).to(dtype, memory_format=layout)
    assert x.numel() > PIECE
    scale = torch.tensor(0.037)
    for tensor in (x, x.clone().requires_grad_(), x[:, :, ::2].transpose(2, 3)):
        found = snap(tensor.detach(), scale, -100, 90)
        wide = tensor.detach() if dtype == torch.float64 else tensor.detach().float()
        assert torch.equal(found, ((wide / scale).round().clamp(-100, 90) * scale).to(dtype))
        assert found.dtype == dtype
    assert snap(x, scale, -1, 1).stride() == x.stride()


@pytest.mark.parametrize("inside", [None, inside_bounds(0.5, -3, 4)])
def test_both_ways_of_keeping_what_is_inside_agree(inside: tuple[float, float] | None) -> None:
    x = torch.tensor([-1.51, -1.5, -1.49, 0, 1.9, 2.0, 2.000001, 3]).requires_grad_()
    fake_quantize(x, torch.tensor(0.5), -3, 4, inside).backward(torch.arange(1.0, 9.0))
    assert x.grad is not None
    assert x.grad.tolist() == [0, 2, 3, 4, 5, 6, 0, 0]


def test_a_mask_is_all_that_is_kept_where_the_input_is_not() -> None:
    kept: list[torch.Tensor] = []

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        kept.append(tensor)
        return tensor

    x = torch.randn(100, requires_grad=True)
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        fake_quantize(x, torch.tensor(0.5), -3, 4)
        fake_quantize(x, torch.tensor(0.5), -3, 4, inside_bounds(0.5, -3, 4))
    assert kept[0].dtype == torch.uint8
    assert kept[1].data_ptr() == x.data_ptr()


def test_half_precision_is_judged_as_its_float_value() -> None:
    x = torch.tensor([2.546875, 2.53125]).bfloat16()
    assert pass_inside(torch.ones_like(x), x, inside_bounds(0.02, -127, 127)).tolist() == [0, 1]


@given(st.integers(1, 5), st.integers(1, 9))
def test_pieces_and_rows_cover_everything_once(filters: int, width: int) -> None:
    x = torch.arange(float(filters * width * 35000)).view(filters, width, 350, 100)
    assert torch.equal(torch.cat([piece.reshape(-1) for piece in pieces(x)]), x.flatten())
    found, numbers = zip(*rows(x, torch.arange(filters)), strict=True)
    assert torch.equal(torch.cat(found), x)
    assert torch.equal(torch.cat(numbers), torch.arange(filters))
    assert all(piece.numel() <= max(PIECE, x[0].numel()) for piece in (*pieces(x), *found))


def test_a_result_keeps_gaps_out() -> None:
    x = torch.randn(4, 6)[:, ::2]
    assert torch.equal(elementwise(x, lambda source, result: torch.mul(source, 2, out=result)), x * 2)
