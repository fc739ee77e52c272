"""The gradient of the step size that data are quantised with: a product of weights, and no gradient of an image."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from mcomp.quantization import quantize
from mcomp.quantization.quantizers import LSQuantizer
from tests.unit.quantization.quantization_nets import batch

CONVOLUTIONS: dict[str, tuple[nn.Module, tuple[int, ...]]] = {
    "strided": (nn.Conv2d(4, 6, 5, stride=2, padding=2), (3, 4, 11, 9)),
    "grouped and dilated, no bias": (nn.Conv2d(4, 6, 3, groups=2, dilation=2, bias=False), (3, 4, 11, 9)),
    "one-dimensional": (nn.Conv1d(4, 6, 3, padding=1), (3, 4, 11)),
    "three-dimensional": (nn.Conv3d(4, 2, 3), (2, 4, 5, 6, 4)),
    "reflecting": (nn.Conv2d(4, 6, 3, padding=1, padding_mode="reflect"), (3, 4, 11, 9)),
    "padded to the same size": (nn.Conv2d(4, 6, 3, padding="same"), (3, 4, 11, 9)),
}


class Masks(TorchDispatchMode):
    """Which gradients each convolution was asked for: of its input, its weight, its bias."""

    def __init__(self) -> None:
        super().__init__()
        self.masks: list[list[bool]] = []

    def __torch_dispatch__(self, operator: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if operator is torch.ops.aten.convolution_backward.default:
            self.masks.append(args[-1])
        return operator(*args, **(kwargs or {}))


def gradients(made: nn.Module, x: Tensor) -> list[Tensor]:
    made.zero_grad()
    output = made.train()(x)
    (output * torch.randn(output.shape, generator=torch.Generator().manual_seed(5))).sum().backward()
    found = {name: each.grad for name, each in made.named_parameters()}
    assert all(each is not None for each in found.values())
    return [each.clone() for each in found.values() if each is not None]


@pytest.mark.parametrize("name", CONVOLUTIONS)
@settings(max_examples=6)
@given(bits=st.sampled_from([2, 4, 8, 12]), clip=st.sampled_from([0.5, 3.0, 100.0]))
def test_it_is_what_the_gradient_of_the_image_gives(name: str, bits: int, clip: float) -> None:
    layer, shape = CONVOLUTIONS[name]
    x = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    made: Any = quantize(nn.Sequential(copy.deepcopy(layer)), (x,), scheme="lsq", w_bits=8, a_bits=bits)
    for module in made.modules():
        if isinstance(module, LSQuantizer) and not module.of_weight:
            module.set_range(-clip, clip)
    found = gradients(made, x)
    expected = gradients(made, x.clone().requires_grad_())  # an image that wants a gradient goes the long way
    for mine, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=2e-4, atol=2e-4)


def test_data_that_several_layers_read_get_the_sum_of_all() -> None:
    class Fork(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one, self.other = nn.Conv2d(3, 4, 3), nn.Conv2d(3, 4, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.one(x) + self.other(x) + x.mean()

    made = quantize(Fork(), (batch(2),), scheme="lsq", calibration=[batch(4)])
    for mine, theirs in zip(gradients(made, batch(4)), gradients(made, batch(4).requires_grad_()), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-4)


def test_no_gradient_of_the_image_is_made() -> None:
    made = quantize(nn.Sequential(nn.Conv2d(3, 4, 3)), (batch(2),), scheme="lsq", calibration=[batch(4)]).train()
    with Masks() as seen:
        made(batch(4)).sum().backward()
    assert [mask[0] for mask in seen.masks] == [False, False]
    with Masks() as seen:
        made(batch(4).requires_grad_()).sum().backward()
    assert [mask[0] for mask in seen.masks] == [True]
