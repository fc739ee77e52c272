"""Queries that a mask leaves no key: quantised attention answers what float attention does."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mcomp.quantization import QuantAttention, QuantMultiheadAttention, quantize
from tests.unit.quantization.conversion_nets import Function

SHUT = torch.ones(5, 5, dtype=torch.bool).triu()  # the first query sees nothing, each other one those before it
MASKS = {"boolean": SHUT, "added": torch.zeros(5, 5).masked_fill(SHUT, -torch.inf)}


def tensors(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("mask", MASKS)
def test_a_query_that_sees_no_key_attends_to_nothing(mask: str) -> None:
    found, expected = (tensors(2, 3, 5, 4).requires_grad_() for _ in range(2))
    seen = ~SHUT if mask == "boolean" else MASKS[mask]  # the function's booleans say what is seen
    mine = QuantAttention(nn.Identity())(found, found, found, attn_mask=seen)
    theirs = F.scaled_dot_product_attention(expected, expected, expected, attn_mask=seen)
    torch.testing.assert_close(mine, theirs)
    assert not mine[:, :, 0].detach().any()
    mine.square().sum().backward()
    theirs.square().sum().backward()
    torch.testing.assert_close(found.grad, expected.grad)


@pytest.mark.parametrize("weights", [False, True])
@pytest.mark.parametrize("mask", [*MASKS, "padding"])
def test_multihead_attention_answers_blind_queries_as_the_original(mask: str, weights: bool) -> None:
    layer = nn.MultiheadAttention(8, 2, batch_first=True)  # in train mode: that of eval mode has a path of its own
    made = QuantMultiheadAttention(8, 2, batch_first=True, w_bits=32, a_bits=32)
    made.load_state_dict(layer.state_dict())
    x = tensors(2, 5, 8)
    given: dict[str, Any] = {"attn_mask": MASKS.get(mask), "need_weights": weights}
    if mask == "padding":
        given["key_padding_mask"] = torch.tensor([[True] * 5, [False] * 5])
    found, expected = made(x, x, x, **given), layer(x, x, x, **given)
    torch.testing.assert_close(found, expected, equal_nan=True)
    assert bool(expected[0].isnan().any()) == weights, "as torch has it"


def test_a_converted_network_with_blind_queries_trains() -> None:
    def forward(net: Any, x: Tensor) -> Tensor:
        heads = net.make(x).view(len(x), 5, 2, 4).transpose(1, 2)
        return F.scaled_dot_product_attention(heads, heads, heads, attn_mask=~SHUT)

    model, x = Function(forward, make=nn.Linear(8, 8)), tensors(2, 5, 8)
    made = quantize(model, (x,), scheme="iao", calibration=[x])
    made.train()(x).sum().backward()
    assert not made(x).isnan().any()
    assert all(bool(parameter.grad.isfinite().all()) for parameter in made.parameters() if parameter.grad is not None)
