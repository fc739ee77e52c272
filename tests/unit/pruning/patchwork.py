"""Random networks of many kinds of layer, each with its masked computation written by hand, without the tracer."""

from __future__ import annotations

from typing import Any

import torch
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F

from tests.unit.pruning.patches import (
    ACTIVATIONS,
    Block,
    Choice,
    Concat,
    Gate,
    Kept,
    Patch,
    PixelShuffle,
    Positions,
    Residual,
    Shuffle,
    Split,
    Twice,
    along,
)
from tests.unit.pruning.sequence_patches import Attention, Encoder, Recurrent

SIZES = {1: 12, 2: 6, 3: 4}
NORMS = ["batch", "batch", "group", "instance", "layer", "none"]


class Patchwork(nn.Module):
    """A stem, patches, and a head."""

    def __init__(self, stem: Block | nn.Embedding, patches: list[Patch], flat: int, hidden: int = 12) -> None:
        super().__init__()
        self.stem, self.patches, self.flat = stem, nn.ModuleList(patches), flat
        width = patches[-1].width if patches else stem.width
        self.hidden, self.out = nn.Linear(width * max(flat, 1), hidden), nn.Linear(hidden, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x).transpose(1, 2) if isinstance(self.stem, nn.Embedding) else self.stem(x)
        for patch in self.patches:
            x = patch(x)
        x = x.flatten(1) if self.flat else x.flatten(2).mean(2)
        return self.out(F.gelu(self.hidden(x)))  # type: ignore[no-any-return]

    def masked(self, x: Tensor, kept: Kept) -> Tensor:
        """The output with the channels left out that the layers do not keep."""
        names = Choice(kept)
        if isinstance(self.stem, nn.Embedding):
            there = names.rows("stem", self.stem.embedding_dim)
            x = (self.stem(x) * there).transpose(1, 2)
        else:
            x, there = self.stem.masked(x, torch.ones(x.shape[1], dtype=torch.bool), names.of("stem"))
        for index, patch in enumerate(self.patches):
            x, there = patch.masked(x, there, names.of(f"patches.{index}"))  # type: ignore[operator]
        x = x * along(there, x)
        x = x.flatten(1) if self.flat else x.flatten(2).mean(2)
        inner = names.rows("hidden", self.hidden.out_features)
        return self.out(F.gelu(self.hidden(x)) * inner)  # type: ignore[no-any-return]


def scattered(model: nn.Module, seed: int) -> nn.Module:
    """Random weights, scales, biases and statistics everywhere; in eval mode."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
            noise = torch.randn(tensor.shape, generator=generator)
            if not tensor.is_floating_point():
                continue
            if tensor.ndim > 1 and "table" not in name and "scale" not in name:
                tensor.copy_(noise * (2 / max(tensor[0].numel(), 1)) ** 0.5)
            else:
                tensor.copy_(noise.abs() + 0.3 if name.endswith(("weight", "var", "scale")) else noise / 2)
    return model.eval()


KINDS = [
    "block", "block", "block", "depthwise", "multiplied", "residual", "scaled", "twice", "concat", "split", "shuffle",
    "gate", "positions", "attention", "attention", "pixels", "transposed", "encoder", "recurrent",
]  # fmt: skip


@st.composite
def patchworks(draw: st.DrawFn) -> tuple[Patchwork, Tensor]:
    """A network in one, two or three dimensions, and a batch for it."""
    dims = draw(st.sampled_from([1, 2, 2, 2, 3]))
    size = tuple([SIZES[dims]] * dims)
    widths = st.sampled_from([8, 16, 24, 32])
    words = dims == 1 and draw(st.booleans())
    width = draw(widths)
    stem = nn.Embedding(20, width) if words else Block(dims, 3, width, draw(st.sampled_from(NORMS)))
    patches: list[Patch] = []
    for _ in range(draw(st.integers(1, 5))):
        patch = _drawn(draw, draw(st.sampled_from(KINDS)), dims, size, width)
        patches.append(patch)
        width = patch.width
    flat = draw(st.booleans())
    seed = draw(st.integers(0, 1000))
    model = Patchwork(stem, patches, torch.Size(size).numel() if flat else 0)
    generator = torch.Generator().manual_seed(seed)
    if words:
        x = torch.randint(0, 20, (3, *size), generator=generator)
    else:
        x = torch.randn(3, 3, *size, generator=generator, dtype=torch.float64)
    return scattered(model, seed).double(), x


def _drawn(draw: st.DrawFn, kind: str, dims: int, size: tuple[int, ...], width: int) -> Patch:
    def block(inputs: int, outputs: int, groups: int = 1, **more: Any) -> Block:
        norm, act = draw(st.sampled_from(NORMS)), draw(st.sampled_from(sorted(ACTIVATIONS)))
        return Block(dims, inputs, outputs, norm, act, groups, draw(st.sampled_from([1, 3])), **more)

    new = draw(st.sampled_from([8, 16, 24, 32]))
    divisors = st.sampled_from([groups for groups in (1, 2, 4, 8) if width % groups == 0])
    if kind == "depthwise":
        return block(width, width, width)
    if kind == "multiplied":
        return block(width, 2 * width, width) if width <= 32 else block(width, new)
    if kind in ("residual", "scaled"):
        return Residual(block(width, width), dims, kind == "scaled")
    if kind == "twice":
        return Twice(block(width, width))
    if kind == "concat":
        return Concat(block(width, new), width)
    if kind == "split":
        how = draw(st.sampled_from(["chunk", "slice", "sizes"]))
        first = width // 4 if how == "sizes" else width // 2
        return Split(block(width - first, new), width, first, how)
    if kind == "shuffle":
        return Shuffle(block(width, new, draw(divisors)), draw(divisors))
    if kind == "gate":
        return Gate(width, draw(st.sampled_from([4, 8])))
    if kind == "positions":
        return Positions(width, size)
    if kind == "attention":
        style = draw(st.sampled_from(["packed", "separate", "read", "fused", "einsum"]))
        return Attention(width, draw(st.sampled_from([1, 2, 4])), style, draw(st.sampled_from([4, 8])))
    if kind == "encoder":
        return Encoder(width, draw(st.sampled_from([1, 2, 4])), new, draw(st.booleans()), draw(st.booleans()))
    if kind == "recurrent" and dims == 1:
        kinds = st.sampled_from(["lstm", "gru", "rnn"])
        return Recurrent(draw(kinds), width, new, draw(st.integers(1, 2)), draw(st.booleans()))
    if kind == "pixels" and dims == 2:
        return PixelShuffle(block(width, 4 * new))
    if kind == "transposed":
        return block(width, new, transposed=True)
    return block(width, new, draw(divisors), bias=draw(st.booleans()))
