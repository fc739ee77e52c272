"""Attention and recurrent pieces of networks, each with its masked computation written by hand."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tests.unit.pruning.patches import Choice, Patch, agree, along, standardised


def heads_of(x: Tensor, there: Tensor, heads: int) -> Tensor:
    """``(N, L, heads * width)`` to ``(N, heads, L, width)``, zero where channels are not there."""
    assert len({int(head.sum()) for head in there.chunk(heads)}) == 1, "heads differ in width"
    return (x * there).reshape(*x.shape[:2], heads, -1).transpose(1, 2)


def attended(parts: list[tuple[Tensor, Tensor]], heads: int, scale: float) -> Tensor:
    """Queries, keys and values with what is there of each, to ``(N, L, heads * width)``."""
    agree(parts[0][1], parts[1][1])
    q, k, v = (heads_of(x, there, heads) for x, there in parts)
    return ((q @ k.transpose(-2, -1) * scale).softmax(-1) @ v).transpose(1, 2).flatten(2)


def layer_normed(norm: nn.LayerNorm, x: Tensor, there: Tensor) -> Tensor:
    flags = there.to(x.dtype).expand(x.shape)
    return (standardised(x, flags, (2,), norm.eps) * norm.weight + norm.bias) * flags


class Attention(Patch):
    """Pre-norm multi-head self-attention over the positions, in one of the styles that people write it in."""

    def __init__(self, inputs: int, heads: int, style: str, width: int) -> None:
        super().__init__()
        self.width, self.style, self.num_heads, self.head_dim = inputs, style, heads, width
        self.norm, self.out = nn.LayerNorm(inputs), nn.Linear(heads * width, inputs)
        self.scale = width**-0.5
        if style == "packed":
            self.qkv = nn.Linear(inputs, 3 * heads * width)
        else:
            self.q, self.k, self.v = (nn.Linear(inputs, heads * width) for _ in range(3))

    def forward(self, x: Tensor) -> Tensor:
        tokens = x.flatten(2).transpose(1, 2)
        return x + self.attend(self.norm(tokens)).transpose(1, 2).reshape(x.shape)

    def attend(self, x: Tensor) -> Tensor:
        count, length, _ = x.shape
        if self.style == "packed":
            packed = self.qkv(x).reshape(count, length, 3, self.num_heads, self.head_dim)
            q, k, v = packed.permute(2, 0, 3, 1, 4).unbind(0)
        elif self.style == "read":  # the width is read where it is needed
            q, k, v = (one.view(count, length, self.num_heads, -1).transpose(1, 2) for one in self.made(x))
        else:
            q, k, v = (one.view(count, length, self.num_heads, self.head_dim).transpose(1, 2) for one in self.made(x))
        if self.style in ("packed", "fused"):
            mixed = F.scaled_dot_product_attention(q, k, v)
        elif self.style == "einsum":
            scores = torch.einsum("bhld,bhmd->bhlm", q, k) * self.scale
            mixed = torch.einsum("bhlm,bhmd->bhld", scores.softmax(-1), v)
        else:
            mixed = (q @ k.transpose(-2, -1) / q.shape[-1] ** 0.5).softmax(-1) @ v
        return self.out(mixed.transpose(1, 2).flatten(2))  # type: ignore[no-any-return]

    def made(self, x: Tensor) -> list[Tensor]:
        return [layer(x) for layer in (self.q, self.k, self.v)]

    def masked(self, x: Tensor, there: Tensor, kept: Choice) -> tuple[Tensor, Tensor]:
        y = layer_normed(self.norm, x.flatten(2).transpose(1, 2), there)
        rows = self.num_heads * self.head_dim
        if self.style == "packed":
            parts = list(zip(self.qkv(y).chunk(3, -1), kept.rows("qkv", 3 * rows).chunk(3), strict=True))
        else:
            parts = list(zip(self.made(y), [kept.rows(name, rows) for name in "qkv"], strict=True))
        agree(kept.rows("out", self.width), there)
        y = self.out(attended(parts, self.num_heads, self.scale))
        return (x + y.transpose(1, 2).reshape(x.shape)) * along(there, x), there


class Encoder(Patch):
    """PyTorch's own encoder layer over the positions."""

    def __init__(self, inputs: int, heads: int, feed: int, norm_first: bool, batch_first: bool) -> None:
        super().__init__()
        self.width, self.batch_first, self.heads = inputs, batch_first, heads
        self.layer = nn.TransformerEncoderLayer(
            inputs, heads, feed, 0.0, norm_first=norm_first, batch_first=batch_first
        )

    def forward(self, x: Tensor) -> Tensor:
        tokens = x.flatten(2).transpose(1, 2) if self.batch_first else x.flatten(2).permute(2, 0, 1)
        y = self.layer(tokens)
        return (y.transpose(1, 2) if self.batch_first else y.permute(1, 2, 0)).reshape(x.shape)

    def masked(self, x: Tensor, there: Tensor, kept: Choice) -> tuple[Tensor, Tensor]:
        names, layer = kept.of("layer"), self.layer
        for name in ("self_attn.out_proj", "linear2"):
            agree(names.rows(name, self.width), there)

        def attention(y: Tensor) -> Tensor:
            inner = layer.self_attn
            packed = F.linear(y, inner.in_proj_weight, inner.in_proj_bias).chunk(3, -1)
            rows = names.rows("self_attn.in_proj_weight", 3 * self.width).chunk(3)
            parts = list(zip(packed, rows, strict=True))
            return inner.out_proj(attended(parts, self.heads, (self.width // self.heads) ** -0.5)) * there  # type: ignore[no-any-return]

        def feed(y: Tensor) -> Tensor:
            inside = layer.linear1(y).relu() * names.rows("linear1", layer.linear1.out_features)
            return layer.linear2(inside) * there  # type: ignore[no-any-return]

        y = x.flatten(2).transpose(1, 2) * there
        if layer.norm_first:
            y = y + attention(layer_normed(layer.norm1, y, there))
            y = y + feed(layer_normed(layer.norm2, y, there))
        else:
            y = layer_normed(layer.norm1, y + attention(y), there)
            y = layer_normed(layer.norm2, y + feed(y), there)
        return y.transpose(1, 2).reshape(x.shape), there


class Recurrent(Patch):
    """An LSTM or a GRU along ``(N, C, L)``."""

    def __init__(self, kind: str, inputs: int, hidden: int, layers: int, both: bool) -> None:
        super().__init__()
        made = {"lstm": nn.LSTM, "gru": nn.GRU, "rnn": nn.RNN}[kind]
        self.rnn = made(inputs, hidden, layers, batch_first=True, bidirectional=both)
        self.kind, self.hidden, self.ends = kind, hidden, ["", "_reverse"] if both else [""]
        self.width = hidden * len(self.ends)

    def forward(self, x: Tensor) -> Tensor:
        return self.rnn(x.transpose(1, 2))[0].transpose(1, 2)  # type: ignore[no-any-return]

    def masked(self, x: Tensor, there: Tensor, kept: Choice) -> tuple[Tensor, Tensor]:
        y = x.transpose(1, 2) * there
        for layer in range(self.rnn.num_layers):
            found = [self._direction(y, f"l{layer}{end}", kept.of("rnn")) for end in self.ends]
            y, there = torch.cat([one for one, _ in found], -1), torch.cat([mine for _, mine in found])
        return y.transpose(1, 2), there

    def _direction(self, x: Tensor, end: str, kept: Choice) -> tuple[Tensor, Tensor]:
        """One direction of one layer, gate by gate, and the hidden channels that are there."""
        gates = {"lstm": 4, "gru": 3, "rnn": 1}[self.kind]
        there = kept.rows(f"weight_hh_{end}", gates * self.hidden).reshape(gates, -1)
        for gate in (*there, *kept.rows(f"weight_ih_{end}", gates * self.hidden).reshape(gates, -1)):
            agree(gate, there[0])
        inner, outer = (getattr(self.rnn, f"weight_{kind}_{end}") for kind in ("hh", "ih"))
        inner_bias, outer_bias = (getattr(self.rnn, f"bias_{kind}_{end}") for kind in ("hh", "ih"))
        h = c = x.new_zeros(len(x), self.hidden)
        found = []
        for step in range(x.shape[1]):
            at = x.shape[1] - 1 - step if end.endswith("reverse") else step
            fresh, old = F.linear(x[:, at], outer, outer_bias), F.linear(h, inner, inner_bias)
            if self.kind == "lstm":
                i, f, g, o = (fresh + old).chunk(4, 1)
                c = f.sigmoid() * c + i.sigmoid() * g.tanh()
                h = o.sigmoid() * c.tanh()
            elif self.kind == "gru":
                (r, z, n), (r_old, z_old, n_old) = fresh.chunk(3, 1), old.chunk(3, 1)
                keep = (z + z_old).sigmoid()
                h = (1 - keep) * (n + (r + r_old).sigmoid() * n_old).tanh() + keep * h
            else:
                h = (fresh + old).tanh()
            h = h * there[0]
            found.insert(0 if end.endswith("reverse") else len(found), h)
        return torch.stack(found, 1), there[0]
