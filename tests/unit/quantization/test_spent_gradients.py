"""Gradients that are written over where nobody reads them, and left alone everywhere else."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from mcomp.quantization import QuantConv2d, QuantLinear
from mcomp.quantization.pieces import PIECE, gradient_buffer, laid_out_like, matching
from mcomp.quantization.quantizers import BinaryWeight, LSQuantizer, Quantizer, TernaryWeight

WEIGHTS: dict[str, Callable[[], Quantizer]] = {
    "binary": BinaryWeight,
    "ternary": TernaryWeight,
    "lsq": lambda: LSQuantizer(4, of_weight=True, narrow=True),
}
every = pytest.mark.parametrize("build", WEIGHTS.values(), ids=WEIGHTS)


def weight(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(1)) * 0.3


@every
def test_a_quantiser_by_itself_leaves_the_upstream_gradient_alone(build: Callable[[], Quantizer]) -> None:
    quantizer, leaf = build().train(), weight(6, 64, 3, 3).requires_grad_()
    quantizer.initialise(leaf)
    upstream = torch.randn_like(leaf)
    before = upstream.clone()
    quantizer(leaf).backward(upstream)
    assert torch.equal(upstream, before)
    assert leaf.grad is not None
    assert leaf.grad.data_ptr() != upstream.data_ptr()


@every
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_a_layer_gives_the_same_gradients_as_its_quantiser_by_itself(
    build: Callable[[], Quantizer], layout: torch.memory_format
) -> None:
    torch.manual_seed(0)
    layer = QuantConv2d(64, 6, 3, weight_quantizer=build(), bias=False).to(memory_format=layout).train()
    layer.initialise(layer.weight)
    x = torch.randn(2, 64, 5, 5).contiguous(memory_format=layout)
    layer(x).square().sum().backward()
    own = build().train()
    own.load_state_dict(layer.weight_quantizer.state_dict())
    leaf = layer.weight.detach().clone().requires_grad_()
    torch.nn.functional.conv2d(x, own(leaf)).square().sum().backward()
    torch.testing.assert_close(layer.weight.grad, leaf.grad, rtol=1e-5, atol=1e-5)
    pairs = zip(layer.weight_quantizer.parameters(), own.parameters(), strict=True)
    assert all(torch.allclose(mine.grad, theirs.grad, rtol=1e-4) for mine, theirs in pairs)


@every
def test_a_layer_that_is_called_twice_sums_both_gradients(build: Callable[[], Quantizer]) -> None:
    torch.manual_seed(0)
    layer = QuantLinear(7, 7, weight_quantizer=build(), bias=False).train()
    layer.initialise(layer.weight)
    x = torch.randn(5, 7)
    own = build().train()
    own.load_state_dict(layer.weight_quantizer.state_dict())
    for often in (False, True):
        layer.read_often = often
        layer.weight.grad = None
        layer(layer(x)).square().sum().backward()
        leaf = layer.weight.detach().clone().requires_grad_()
        quantised = own(leaf)
        (x @ quantised.t() @ quantised.t()).square().sum().backward()
        torch.testing.assert_close(layer.weight.grad, leaf.grad, rtol=1e-4, atol=1e-5)


def test_the_mean_over_many_inputs_is_subtracted_at_each_kernel_position() -> None:
    for shape in ((5, 64, 3, 3), (5, 48, 5), (3, 96, 1, 1), (4, 33, 3, 3), (2, 64)):
        w = weight(*shape)
        centred = (w.double() - w.double().mean(1, keepdim=True)).clamp(-1, 1)
        scale = centred.abs().flatten(1).mean(1).reshape(-1, *[1] * (w.dim() - 1))
        expected = torch.where(centred >= 0, scale, -scale).float()
        torch.testing.assert_close(BinaryWeight()(w), expected, rtol=1e-5, atol=1e-7)


def test_pieces_of_several_tensors_cover_the_same_elements_whatever_their_layout() -> None:
    x = torch.arange(2 * 3 * PIECE, dtype=torch.float32).view(2, 3, 256, -1)
    other = x.contiguous(memory_format=torch.channels_last)
    for pair in ((x, x * 2), (other, other * 2), (x, other * 2), (x[..., ::2], x[..., ::2] * 2)):
        seen = 0
        for first, second in matching(*pair):
            assert torch.equal(first * 2, second)
            seen += first.numel()
        assert seen == pair[0].numel()


def test_a_gradient_is_written_over_only_where_it_is_spent_or_a_copy() -> None:
    x = torch.randn(4, 3, 5, 5)
    grad = torch.randn_like(x)
    with torch.no_grad():
        assert gradient_buffer(grad, x, x.dtype, True)[1] is grad
        assert gradient_buffer(grad, x, x.dtype, False)[1] is not grad
        turned = grad.contiguous(memory_format=torch.channels_last)
        source, target = gradient_buffer(turned, x, x.dtype, False)
        assert source is target is not turned
        assert torch.equal(source, turned)
        assert gradient_buffer(grad, x, torch.bfloat16, True)[1].dtype == torch.bfloat16
    assert gradient_buffer(grad, x, x.dtype, True)[1] is not grad  # a second derivative would miss it
    assert laid_out_like(grad, x) is grad


def test_the_weight_of_every_layer_spends_its_gradient() -> None:
    assert QuantConv2d(3, 4, 3, scheme="lsq").weight_quantizer.spent
    assert not LSQuantizer(8).spent
    assert isinstance(QuantConv2d(3, 4, 3, scheme="lsq").weight, nn.Parameter)
