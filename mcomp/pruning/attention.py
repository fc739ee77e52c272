"""Multi-head attention (Vaswani et al., arXiv:1706.03762) whose heads may have any width."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class PrunableAttention(nn.MultiheadAttention):
    """``nn.MultiheadAttention`` with widths of its own for queries and keys, for values, and for the model.

    PyTorch's takes all of them for one number. Parameters have the same names; a module is made by :func:`freed`, in
    place, and computes the same. The softmax keeps the scale that the network was trained with. It cannot be scripted:
    for TorchScript, trace the pruned network (``torch.jit.trace``).

    Attributes:
        qk_dim: channels of a head in queries and keys.
        v_dim: channels of a head in values.
        scale: of the scores.
    """

    qk_dim: int
    v_dim: int
    scale: float

    def update_widths(self) -> None:
        """Bring the attributes that describe widths in line with the weights."""
        out = self.out_proj
        out.out_features, out.in_features = out.weight.shape
        self.v_dim = out.in_features // self.num_heads
        self.embed_dim = out.out_features
        packed: Tensor | None = self.in_proj_weight  # None where keys and values have widths of their own
        if packed is not None:
            rows, self.kdim = packed.shape
            self.vdim = self.kdim
            self.qk_dim = (rows // self.num_heads - self.v_dim) // 2
        else:
            self.qk_dim = self.q_proj_weight.shape[0] // self.num_heads
            self.kdim, self.vdim = self.k_proj_weight.shape[1], self.v_proj_weight.shape[1]
        self.head_dim = self.qk_dim

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
        """As :meth:`torch.nn.MultiheadAttention.forward`."""
        batched = query.dim() == 3
        if not batched:
            wrapped = {id(tensor): tensor[None] for tensor in (query, key, value)}
            query, key, value = (wrapped[id(tensor)] for tensor in (query, key, value))
            key_padding_mask = None if key_padding_mask is None else key_padding_mask[None]
        elif not self.batch_first:
            turned = {id(tensor): tensor.transpose(0, 1) for tensor in (query, key, value)}
            query, key, value = (turned[id(tensor)] for tensor in (query, key, value))  # one tensor stays one
        q, k, v = self._projected(query, key, value)
        mask = self._mask(attn_mask, key_padding_mask, query, key, is_causal)
        k, v, mask = self._with_own_positions(k, v, mask)
        q, k, v = (self._split(part) for part in (q, k, v))
        dropout = self.dropout if self.training else 0.0
        weights = None
        if need_weights:
            scores = (q * self.scale) @ k.transpose(-2, -1)
            attention = (scores if mask is None else scores + mask).softmax(-1)
            mixed = F.dropout(attention, dropout) @ v
            weights = attention.mean(1) if average_attn_weights else attention
        else:
            mixed = F.scaled_dot_product_attention(q, k, v, mask, dropout, scale=self.scale)
        joined = mixed.transpose(1, 2).flatten(2)
        output = cast("Tensor", self.out_proj(joined))
        if not batched:
            return output[0], None if weights is None else weights[0]
        return output if self.batch_first else output.transpose(0, 1), weights

    def _projected(self, query: Tensor, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """``(batch, length, heads * width)`` each."""
        widths = [self.num_heads * self.qk_dim, self.num_heads * self.qk_dim, self.num_heads * self.v_dim]
        packed: Tensor | None = self.in_proj_weight
        bias: Tensor | None = self.in_proj_bias
        if packed is None:
            weights: tuple[Tensor, ...] = (self.q_proj_weight, self.k_proj_weight, self.v_proj_weight)
        elif query is key and key is value:
            q, k, v = torch.split(F.linear(query, packed, bias), widths, -1)
            return q, k, v
        else:
            weights = torch.split(packed, widths)
        biases = (None, None, None) if bias is None else torch.split(bias, widths)
        q, k, v = (F.linear(x, w, b) for x, w, b in zip((query, key, value), weights, biases, strict=True))
        return q, k, v

    def _with_own_positions(self, k: Tensor, v: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor, Tensor | None]:
        """Keys and values of ``add_bias_kv`` and ``add_zero_attn`` behind those of the sequence; no mask hides them."""
        bias_k: Tensor | None = self.bias_k
        bias_v: Tensor | None = self.bias_v
        own: list[tuple[Tensor | float, Tensor | float]] = []
        if bias_k is not None and bias_v is not None:
            own.append((bias_k, bias_v))
        if self.add_zero_attn:
            own.append((0.0, 0.0))
        if own:  # made of a position that is there, so that each is seen to hold the same channels
            k = torch.cat([k, *(k[:, :1] * 0 + key for key, _ in own)], 1)
            v = torch.cat([v, *(v[:, :1] * 0 + value for _, value in own)], 1)
            mask = None if mask is None else F.pad(mask, (0, len(own)))
        return k, v, mask

    def _split(self, tensor: Tensor) -> Tensor:
        """``(batch, heads, length, width)``."""
        return tensor.reshape(*tensor.shape[:2], self.num_heads, -1).transpose(1, 2)

    def _mask(
        self, attn_mask: Tensor | None, padding: Tensor | None, query: Tensor, key: Tensor, is_causal: bool
    ) -> Tensor | None:
        """What is added to the scores, broadcast to ``(batch, heads, queries, keys)``."""
        if is_causal and attn_mask is None:
            raise RuntimeError("is_causal needs an attn_mask, as in nn.MultiheadAttention")
        found = None if attn_mask is None else _additive(attn_mask, query)
        if found is not None and found.dim() == 3:
            found = found.reshape(-1, self.num_heads, *found.shape[1:])
        if padding is not None:
            padded = _additive(padding, query)[:, None, None, :]
            found = padded if found is None else found + padded
        return found


def _additive(mask: Tensor, like: Tensor) -> Tensor:
    """True, "do not attend", becomes minus infinity."""
    if mask.dtype is not torch.bool:
        return mask
    return torch.zeros_like(mask, dtype=like.dtype).masked_fill(mask, -math.inf)


def freed(module: nn.MultiheadAttention) -> PrunableAttention:
    """Turn PyTorch's module, in place, into one whose widths can be cut."""
    scale = 1 / math.sqrt(module.head_dim)
    module.__class__ = PrunableAttention
    made = cast("PrunableAttention", module)
    made.scale = scale
    made._qkv_same_embed_dim = False  # keeps the encoder layers' fused path, which knows one width only, away
    made.update_widths()
    return made


def free_attention(model: nn.Module) -> nn.Module:
    """Free every attention module of ``model``, in place, and return it."""
    for module in model.modules():
        if type(module) is nn.MultiheadAttention:
            freed(module)
    pad_as_tensors(model.modules())
    return model


def _holds_freed(module: nn.Module) -> bool:
    return any(isinstance(inside, PrunableAttention) for inside in module.modules())


def pad_as_tensors(modules: Iterable[nn.Module]) -> None:
    """Turn nested tensors off, in place, in encoders among ``modules`` that hold an attention that was freed.

    In eval mode ``nn.TransformerEncoder`` packs padded sequences into a nested tensor, which its layers' fused path
    alone can read. As in training, padded positions then hold values that nothing attends to, not zeros.
    """
    for module in modules:
        if isinstance(module, nn.TransformerEncoder) and _holds_freed(module):
            module.enable_nested_tensor = module.use_nested_tensor = False
