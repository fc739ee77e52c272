"""Attention whose matrix products read quantised tensors (Vaswani et al., arXiv:1706.03762).

Queries, keys, values and the probabilities behind the softmax (never negative) are quantised; the softmax stays float.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mcomp.quantization.by_hand import Written
from mcomp.quantization.kept_weight import QuantizedParameter
from mcomp.quantization.layers import quantized_like, twin
from mcomp.quantization.quantizers.base import Quantizer

MakeWeight = Callable[[], Quantizer | None]
MakeActivation = Callable[[bool], nn.Module]  # of "is the tensor never negative"


class QuantAttention(nn.Module):
    """``F.scaled_dot_product_attention`` on queries, keys and values that are quantised already."""

    def __init__(self, probabilities: nn.Module) -> None:
        super().__init__()
        self.probabilities = probabilities

    def forward(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        attn_mask: Tensor | None = None,
        dropout_p: float = 0.0,
        is_causal: bool = False,
        scale: float | None = None,
        enable_gqa: bool = False,
    ) -> Tensor:
        """``[..., queries, width]`` from keys and values ``[..., keys, width]``."""
        if enable_gqa:
            key = key.repeat_interleave(query.size(-3) // key.size(-3), -3)
            value = value.repeat_interleave(query.size(-3) // value.size(-3), -3)
        scores = query @ key.transpose(-2, -1) * (1 / math.sqrt(query.size(-1)) if scale is None else scale)
        if is_causal:
            seen = torch.ones(scores.shape[-2:], dtype=torch.bool, device=scores.device).tril()
            scores = scores.masked_fill(~seen, -torch.inf)
        if attn_mask is not None:
            scores = add_mask(scores, attn_mask, keep=True)
        probabilities = self.probabilities(scores.softmax(-1) if attn_mask is None else safe_softmax(scores))
        attended: Tensor = F.dropout(probabilities, dropout_p) @ value
        return attended


class QuantMultiheadAttention(nn.MultiheadAttention):
    """``nn.MultiheadAttention`` with quantised projections and matrix products; every option works.

    Parameters keep their names. Unlike the original it has no other path for eval mode.

    Attributes:
        projections: one :class:`QuantizedParameter` per matrix that makes queries, keys and values; empty where the
            weights stay float.
        input_quantizer: one for query, key and value in front of the projections where no graph holds theirs, or None.
        operands: quantisers ``query``, ``key``, ``value``, ``probabilities`` and ``context`` (what the output
            projection reads).
    """

    projections: nn.ModuleDict
    input_quantizer: Quantizer | None
    operands: nn.ModuleDict

    def __init__(
        self,
        *args: Any,
        scheme: str = "dorefa",
        a_scheme: str | None = None,
        w_bits: int | None = None,
        a_bits: int | None = None,
        levels: int = 255,
        per_channel: bool | None = None,
        **kwargs: Any,
    ) -> None:
        """Written by hand: the original's arguments, and keywords as of :class:`~mcomp.quantization.QuantLinear`."""
        written, rest = Written.of(type(self), (scheme, a_scheme), (w_bits, a_bits), levels, per_channel, kwargs)
        super().__init__(*args, **rest)
        self._read_through(
            lambda: None if written.weights.off else written.weight(),
            lambda nonnegative: written.activation(nonnegative) or nn.Identity(),
            written.activation(False),
        )

    def forward(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        key_padding_mask: Tensor | None = None,
        need_weights: bool = True,
        attn_mask: Tensor | None = None,
        average_attn_weights: bool = True,
        is_causal: bool = False,
    ) -> tuple[Tensor, Tensor | None]:
        """Attend; shapes as for ``nn.MultiheadAttention``. ``is_causal`` is a hint that ``attn_mask`` makes good."""
        batched = query.dim() == 3
        q, k, v = self._read(query, key, value)
        if not batched:
            q, k, v = q.unsqueeze(1), k.unsqueeze(1), v.unsqueeze(1)
        elif self.batch_first:
            q, k, v = q.transpose(0, 1), k.transpose(0, 1), v.transpose(0, 1)
        q, k, v = self._project(q, k, v)
        if self.bias_k is not None and self.bias_v is not None:
            k = torch.cat([k, self.bias_k.expand(1, k.size(1), -1)])
            v = torch.cat([v, self.bias_v.expand(1, v.size(1), -1)])
        if self.add_zero_attn:
            k, v = F.pad(k, (0, 0, 0, 0, 0, 1)), F.pad(v, (0, 0, 0, 0, 0, 1))
        probabilities = self._probabilities(q, k, key_padding_mask, attn_mask, need_weights)
        attended = F.dropout(probabilities, self.dropout, self.training) @ self._heads(self.operands["value"](v))
        # [batch, heads, length, width] to [length, batch, heads * width]
        context = self.operands["context"](attended.permute(2, 0, 1, 3).flatten(2))
        output: Tensor = self.out_proj(context)
        if not batched:
            output = output.squeeze(1)
        elif self.batch_first:
            output = output.transpose(0, 1)
        if not need_weights:
            return output, None
        weights = probabilities.mean(1) if average_attn_weights else probabilities
        return output, weights if batched else weights.squeeze(0)

    def _read_through(
        self, make_weight: MakeWeight, make_activation: MakeActivation, input_quantizer: Quantizer | None
    ) -> None:
        self.projections, self.operands = nn.ModuleDict(), nn.ModuleDict()
        for name in ("in_proj_weight", "q_proj_weight", "k_proj_weight", "v_proj_weight"):
            weight, quantizer = self._parameters.get(name), make_weight()
            if weight is not None and quantizer is not None:
                read = QuantizedParameter(quantizer, name, f"projections.{name}").to(weight.device)
                self.projections[name] = read.train(self.training)
        quantizer = make_weight()
        if quantizer is not None:
            self.out_proj = quantized_like(self.out_proj, quantizer)  # type: ignore[assignment]
        for name in ("query", "key", "value", "probabilities", "context"):
            self.operands[name] = make_activation(name == "probabilities").train(self.training)
        self.register_module("input_quantizer", input_quantizer)

    def _read(self, query: Tensor, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        read = self.input_quantizer
        if read is None:
            return query, key, value
        q = read(query)
        k = q if key is query else read(key)
        return q, k, q if value is query else k if value is key else read(value)

    def _project(self, query: Tensor, key: Tensor, value: Tensor) -> list[Tensor]:
        if self._qkv_same_embed_dim:
            weights = self._weight("in_proj_weight").chunk(3)
        else:
            weights = tuple(self._weight(f"{each}_proj_weight") for each in "qkv")
        biases = (None, None, None) if self.in_proj_bias is None else self.in_proj_bias.chunk(3)
        tensors = zip((query, key, value), weights, biases, strict=True)
        return [F.linear(x, weight, bias) for x, weight, bias in tensors]

    def _weight(self, name: str) -> Tensor:
        weight: Tensor = getattr(self, name)
        return self.projections[name](weight) if name in self.projections else weight

    def _probabilities(
        self,
        query: Tensor,
        key: Tensor,
        key_padding_mask: Tensor | None,
        attn_mask: Tensor | None,
        need_weights: bool,
    ) -> Tensor:
        query, key = (self._heads(self.operands[name](x)) for name, x in (("query", query), ("key", key)))
        scores = query @ key.transpose(-2, -1) / math.sqrt(self.head_dim)
        added = int(self.bias_k is not None) + int(self.add_zero_attn)  # every query sees the keys added at the end
        if attn_mask is not None:
            mask = attn_mask.view(-1, self.num_heads, *attn_mask.shape[1:]) if attn_mask.dim() == 3 else attn_mask
            scores = add_mask(scores, F.pad(mask, (0, added)), keep=False)
        if key_padding_mask is not None:
            padding = key_padding_mask.view(scores.size(0), 1, 1, -1)
            scores = add_mask(scores, F.pad(padding, (0, added)), keep=False)
        # asked for its weights, the original answers nan for a query that sees no key; else it answers 0
        safe = not need_weights and not (attn_mask is None and key_padding_mask is None)
        probabilities: Tensor = self.operands["probabilities"](safe_softmax(scores) if safe else scores.softmax(-1))
        return probabilities

    def _heads(self, x: Tensor) -> Tensor:
        """``[length, batch, heads * width]`` to ``[batch, heads, length, width]``."""
        return x.view(*x.shape[:2], self.num_heads, self.head_dim).permute(1, 2, 0, 3)


def add_mask(scores: Tensor, mask: Tensor, *, keep: bool) -> Tensor:
    """Scores with ``mask`` added; a boolean one says which scores to ``keep``, or else which to leave out."""
    if mask.dtype != torch.bool:
        return scores + mask
    return scores.masked_fill(~mask if keep else mask, -torch.inf)


def safe_softmax(scores: Tensor) -> Tensor:
    """The softmax over the last axis, all 0 for a query that sees no key (every score of it is -inf)."""
    blind = scores.amax(-1, keepdim=True) == -torch.inf
    return scores.masked_fill(blind, 0).softmax(-1).masked_fill(blind, 0)


def quantized_attention(
    layer: nn.MultiheadAttention,
    make_weight: MakeWeight,
    make_activation: MakeActivation,
    input_quantizer: Quantizer | None = None,
) -> QuantMultiheadAttention:
    """Quantised attention that shares the parameters of ``layer``."""
    made = twin(layer, QuantMultiheadAttention)
    made._read_through(make_weight, make_activation, input_quantizer)
    for name, read in made.projections.items():
        assert isinstance(read, QuantizedParameter)
        read.initialise(getattr(layer, name))
    return made
