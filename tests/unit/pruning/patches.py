"""Pieces of networks, each with its masked computation written by hand, without the tracer.

Every patch says twice what it computes: :meth:`forward`, as a person would write it, and :meth:`masked`, which is given
the channels that are there and those that each layer keeps. Where channels have to agree (in a sum, in a gate) it says
so; a choice of channels that no network could have is thus seen as well.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

CONVOLUTIONS: dict[int, Any] = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}
TRANSPOSED: dict[int, Any] = {1: nn.ConvTranspose1d, 2: nn.ConvTranspose2d, 3: nn.ConvTranspose3d}
BATCH_NORMS: dict[int, Any] = {1: nn.BatchNorm1d, 2: nn.BatchNorm2d, 3: nn.BatchNorm3d}
INSTANCE_NORMS: dict[int, Any] = {1: nn.InstanceNorm1d, 2: nn.InstanceNorm2d, 3: nn.InstanceNorm3d}
ACTIVATIONS: dict[str, Any] = {
    "relu": nn.ReLU,
    "in place": lambda: nn.ReLU(inplace=True),
    "gelu": nn.GELU,
    "silu": nn.SiLU,
    "sigmoid": nn.Sigmoid,
    "leaky": lambda: nn.LeakyReLU(0.1),
    "elu": nn.ELU,
    "none": nn.Identity,
}

Kept = dict[str, list[int]]


class Choice:
    """Which channels the layers under ``path`` keep."""

    def __init__(self, kept: Kept, path: str = "") -> None:
        self.kept, self.path = kept, path

    def of(self, part: str) -> Choice:
        return Choice(self.kept, f"{self.path}.{part}".strip("."))

    def rows(self, layer: str, width: int) -> Tensor:
        """``[width]`` whether ``layer`` keeps each of its channels."""
        found = self.kept.get(f"{self.path}.{layer}".strip("."))
        there = torch.ones(width, dtype=torch.bool)
        if found is not None:
            there[:] = False
            there[found] = True
        return there


def along(there: Tensor, x: Tensor) -> Tensor:
    """``there`` in the number type of ``x``, ``(C, 1, …)``: to multiply ``(N, C, …)`` with."""
    return there.to(x.dtype).reshape([-1, *[1] * (x.ndim - 2)])


def agree(one: Tensor, other: Tensor) -> None:
    assert torch.equal(one, other), "channels that meet were not pruned alike"


def standardised(x: Tensor, there: Tensor, dims: tuple[int, ...], eps: float) -> Tensor:
    """Mean 0 and variance 1 over ``dims``, counting only what is ``there`` (in the shape of ``x``, 0 or 1)."""
    count = there.sum(dims, keepdim=True)
    mean = (x * there).sum(dims, keepdim=True) / count
    variance = ((x - mean).square() * there).sum(dims, keepdim=True) / count
    return (x - mean) / (variance + eps).sqrt()


class ChannelNorm(nn.LayerNorm):
    """Layer norm over the channels of ``(N, C, …)``."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.movedim(1, -1)).movedim(-1, 1)


def norm_of(kind: str, dims: int, width: int) -> nn.Module:
    if kind == "batch":
        return BATCH_NORMS[dims](width)  # type: ignore[no-any-return]
    if kind == "group":
        return nn.GroupNorm(2 if width % 8 else 4, width)
    if kind == "instance":
        return INSTANCE_NORMS[dims](width, affine=True)  # type: ignore[no-any-return]
    return ChannelNorm(width) if kind == "layer" else nn.Identity()


def normed(norm: nn.Module, x: Tensor, there: Tensor) -> Tensor:
    """What ``norm`` makes of the channels that are there."""
    if isinstance(norm, nn.GroupNorm):
        flags = along(there, x).expand(x.shape).reshape(len(x), norm.num_groups, -1)
        found = standardised(x.reshape(flags.shape), flags, (2,), norm.eps).reshape(x.shape)
        assert len({int(part.sum()) for part in there.chunk(norm.num_groups)}) == 1, "norm groups differ in width"
    elif isinstance(norm, nn.LayerNorm):
        found = standardised(x, along(there, x).expand(x.shape), (1,), norm.eps)
    else:
        return norm(x)  # type: ignore[no-any-return]
    shape = [-1, *[1] * (x.ndim - 2)]
    return found * norm.weight.reshape(shape) + norm.bias.reshape(shape)


class Patch(nn.Module):
    """A step of a network on ``(N, C, …)``; ``width`` channels leave it."""

    width: int

    def masked(self, x: Tensor, there: Tensor, kept: Choice) -> tuple[Tensor, Tensor]:
        raise NotImplementedError


class Block(Patch):
    """Convolution, norm, activation."""

    def __init__(
        self,
        dims: int,
        inputs: int,
        width: int,
        norm: str = "batch",
        act: str = "relu",
        groups: int = 1,
        kernel: int = 3,
        bias: bool = True,
        transposed: bool = False,
    ) -> None:
        super().__init__()
        kind = (TRANSPOSED if transposed else CONVOLUTIONS)[dims]
        self.conv = kind(inputs, width, kernel, padding=kernel // 2, groups=groups, bias=bias)
        self.norm, self.act, self.width = norm_of(norm, dims, width), ACTIVATIONS[act](), width

    def forward(self, x: Tensor) -> Tensor:
        return self.act(self.norm(self.conv(x)))  # type: ignore[no-any-return]

    def masked(self, x: Tensor, there: Tensor, kept: Choice) -> tuple[Tensor, Tensor]:
        mine = kept.rows("conv", self.width)
        if self.conv.groups == self.conv.in_channels > 1:  # depthwise: it has the channels that it reads
            agree(mine.reshape(len(there), -1).any(1), there)
        x = self.act(normed(self.norm, self.conv(x * along(there, x)), mine))
        return x * along(mine, x), mine


class Residual(Patch):
    """``x + scale * block(x)``."""

    def __init__(self, inner: Block, dims: int, scaled: bool) -> None:
        super().__init__()
        self.inner, self.width = inner, inner.width
        self.scale = nn.Parameter(torch.ones(inner.width, *[1] * dims)) if scaled else None

    def forward(self, x: Tensor) -> Tensor:
        y = self.inner(x)
        return x + (y if self.scale is None else y * self.scale)

    def masked(self, x: Tensor, there: Tensor, kept: Choice) -> tuple[Tensor, Tensor]:
        y, mine = self.inner.masked(x, there, kept.of("inner"))
        agree(mine, there)
        return x + (y if self.scale is None else y * self.scale), there


class Twice(Patch):
    """One block, run two times."""

    def __init__(self, inner: Block) -> None:
        super().__init__()
        self.inner, self.width = inner, inner.width

    def forward(self, x: Tensor) -> Tensor:
        return self.inner(self.inner(x))  # type: ignore[no-any-return]

    def masked(self, x: Tensor, there: Tensor, kept: Choice) -> tuple[Tensor, Tensor]:
        x, there = self.inner.masked(x, there, kept.of("inner"))
        return self.inner.masked(x, there, kept.of("inner"))


class Concat(Patch):
    """``x`` beside what a block makes of it."""

    def __init__(self, inner: Block, inputs: int) -> None:
        super().__init__()
        self.inner, self.width = inner, inputs + inner.width

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([x, self.inner(x)], 1)

    def masked(self, x: Tensor, there: Tensor, kept: Choice) -> tuple[Tensor, Tensor]:
        y, mine = self.inner.masked(x, there, kept.of("inner"))
        return torch.cat([x, y], 1), torch.cat([there, mine])


class Split(Patch):
    """The second part of the channels through a block, then in front of the first."""

    def __init__(self, inner: Block, inputs: int, first: int, how: str) -> None:
        super().__init__()
        self.inner, self.how, self.inputs, self.first = inner, how, inputs, first
        self.width = first + inner.width

    def parts(self, x: Tensor) -> Any:
        if self.how == "chunk":
            return x.chunk(2, 1)
        if self.how == "slice":
            half = x.shape[1] // 2
            return x[:, :half], x[:, half:]
        return x.split([self.first, self.inputs - self.first], 1)  # widths written into the code

    def forward(self, x: Tensor) -> Tensor:
        left, right = self.parts(x)
        return torch.cat([self.inner(right), left], 1)

    def masked(self, x: Tensor, there: Tensor, kept: Choice) -> tuple[Tensor, Tensor]:
        first = self.first
        y, mine = self.inner.masked(x[:, first:], there[first:], kept.of("inner"))
        return torch.cat([y, x[:, :first]], 1), torch.cat([mine, there[:first]])


class Shuffle(Patch):
    """A channel shuffle, then a convolution in groups."""

    def __init__(self, inner: Block, rows: int) -> None:
        super().__init__()
        self.inner, self.rows, self.width = inner, rows, inner.width

    def forward(self, x: Tensor) -> Tensor:
        shape = x.shape
        x = x.view(shape[0], self.rows, shape[1] // self.rows, *shape[2:])
        return self.inner(x.transpose(1, 2).contiguous().view(shape))  # type: ignore[no-any-return]

    def masked(self, x: Tensor, there: Tensor, kept: Choice) -> tuple[Tensor, Tensor]:
        order = torch.arange(len(there)).reshape(self.rows, -1).t().flatten()
        return self.inner.masked(x[:, order], there[order], kept.of("inner"))


class Gate(Patch):
    """Squeeze and excite (Hu et al., arXiv:1709.01507)."""

    def __init__(self, inputs: int, squeezed: int) -> None:
        super().__init__()
        self.down, self.up, self.width = nn.Linear(inputs, squeezed), nn.Linear(squeezed, inputs), inputs

    def forward(self, x: Tensor) -> Tensor:
        gate = self.up(self.down(x.flatten(2).mean(2)).relu()).sigmoid()
        return x * gate.reshape(*gate.shape, *[1] * (x.ndim - 2))

    def masked(self, x: Tensor, there: Tensor, kept: Choice) -> tuple[Tensor, Tensor]:
        inner = kept.rows("down", self.down.out_features)
        agree(kept.rows("up", self.width), there)
        gate = self.up(self.down(x.flatten(2).mean(2)).relu() * inner).sigmoid()
        return x * gate.reshape(*gate.shape, *[1] * (x.ndim - 2)), there


class Positions(Patch):
    """A learnt table of positions, added."""

    def __init__(self, inputs: int, positions: tuple[int, ...]) -> None:
        super().__init__()
        self.table, self.width = nn.Parameter(torch.zeros(1, inputs, *positions)), inputs

    def forward(self, x: Tensor) -> Tensor:
        return x + self.table

    def masked(self, x: Tensor, there: Tensor, kept: Choice) -> tuple[Tensor, Tensor]:
        return (x + self.table) * along(there, x), there


class PixelShuffle(Patch):
    """Channels become pixels, and the pixels are pooled again."""

    def __init__(self, inner: Block) -> None:
        super().__init__()
        self.inner, self.width = inner, inner.width // 4

    def forward(self, x: Tensor) -> Tensor:
        return F.max_pool2d(F.pixel_shuffle(self.inner(x), 2), 2)

    def masked(self, x: Tensor, there: Tensor, kept: Choice) -> tuple[Tensor, Tensor]:
        x, mine = self.inner.masked(x, there, kept.of("inner"))
        agree(mine, mine[::4].repeat_interleave(4))
        return F.max_pool2d(F.pixel_shuffle(x, 2), 2), mine[::4]
