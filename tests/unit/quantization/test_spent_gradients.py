"""Gradients that are written over where nobody reads them, and left alone everywhere else."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

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


def test_a_layer_spends_the_gradient_of_its_own_product_alone() -> None:
    seen = []

    class Watching(LSQuantizer):
        def fake_quantize(self, x: Tensor) -> Tensor:
            seen.append(self.spent)
            return super().fake_quantize(x)

    layer = QuantConv2d(3, 4, 3, weight_quantizer=Watching(8, of_weight=True)).train()
    layer(torch.randn(1, 3, 5, 5))
    layer.quantized_weight()
    assert seen == [True, False]
    assert not layer.weight_quantizer.spent


@every
@pytest.mark.parametrize("often", [False, True])
def test_a_gradient_that_two_weights_share_is_not_written_over(build: Callable[[], Quantizer], often: bool) -> None:
    torch.manual_seed(0)
    layers = [QuantConv2d(4, 4, 3, weight_quantizer=build(), bias=False).train() for _ in range(2)]
    leaves = [layer.weight.detach().clone().requires_grad_() for layer in layers]
    x = torch.randn(2, 4, 8, 8)
    for layer in layers:
        layer.initialise(layer.weight)
        layer.read_often = often
        layer(x)  # must not leave a spent weight for those who ask in public
    torch.nn.functional.conv2d(x, layers[0].quantized_weight() + layers[1].quantized_weight()).square().sum().backward()
    alone = []
    for layer, leaf in zip(layers, leaves, strict=True):
        own = build().train()
        own.load_state_dict(layer.weight_quantizer.state_dict())
        alone.append(own(leaf))
    torch.nn.functional.conv2d(x, alone[0] + alone[1]).square().sum().backward()
    for layer, leaf in zip(layers, leaves, strict=True):
        torch.testing.assert_close(layer.weight.grad, leaf.grad, rtol=1e-5, atol=1e-5)


@every
def test_two_forward_passes_of_a_shared_layer_may_be_differentiated_one_after_the_other(
    build: Callable[[], Quantizer],
) -> None:
    torch.manual_seed(0)
    layer = QuantLinear(7, 7, weight_quantizer=build(), bias=False).train()
    layer.initialise(layer.weight)
    layer.read_often = True
    x, y = torch.randn(5, 7), torch.randn(3, 7)
    first, second = layer(layer(x)).square().sum(), layer(layer(y)).square().sum()
    first.backward()
    second.backward()
    own = build().train()
    own.load_state_dict(layer.weight_quantizer.state_dict())
    leaf = layer.weight.detach().clone().requires_grad_()
    for each in (x, y):
        quantised = own(leaf)
        (each @ quantised.t() @ quantised.t()).square().sum().backward()
    torch.testing.assert_close(layer.weight.grad, leaf.grad, rtol=1e-4, atol=1e-5)
    pairs = zip(layer.weight_quantizer.parameters(), own.parameters(), strict=True)
    assert all(torch.allclose(mine.grad, theirs.grad, rtol=1e-4) for mine, theirs in pairs)


def test_a_shared_weight_is_quantised_once_a_step() -> None:
    calls = []

    class Counting(LSQuantizer):
        def fake_quantize(self, x: Tensor) -> Tensor:
            calls.append(x)
            return super().fake_quantize(x)

    layer = QuantLinear(7, 7, weight_quantizer=Counting(4, of_weight=True), bias=False).train()
    layer.initialise(layer.weight)
    layer.read_often = True
    for step in range(1, 3):
        (layer(layer(torch.randn(5, 7))).sum() + layer(torch.randn(5, 7)).sum()).backward()
        assert len(calls) == step
        with torch.no_grad():
            layer.weight.mul_(1.1)
