"""Binary filters as bits, and the number that a count of unequal bits is taken from."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from mcomp.deploy.xnor.geometry import Geometry
from mcomp.quantization.quantizers.binary import BinaryCodes

#: Filters side by side in a register, and channels in a word; as in ``source/kernels.h``.
LANES, WORD = 16, 32


@dataclass(frozen=True)
class BinaryFilters:
    """A binary weight.

    Attributes:
        signs: ``(filters, channels / groups, rows, columns)``, int8, of -1 and +1.
        scale: float32 ``[filters]``; 0 for a filter of zeros, whatever its signs.
        groups: of the convolution.
    """

    signs: Tensor
    scale: Tensor
    groups: int

    @property
    def products(self) -> int:
        """In one sum."""
        return self.signs[0].numel()

    @property
    def taps(self) -> Tensor:
        """``(filters, rows, columns)`` int32: the sum of the signs over the channels at each tap."""
        return self.signs.sum(1, dtype=torch.int32)


def binary_filters(layer: Any) -> BinaryFilters | str:
    """The binary weight of a quantised layer, or why it has none.

    Raises:
        StageError: the weight holds inf or nan.
    """
    integers = layer.integer_weight().centred()
    values = integers.values.detach().cpu()
    rows = values.flatten(1)
    dead = ~rows.any(1)
    if not bool((rows[~dead].abs() == 1).all()):
        return f"its weight is not binary ({integers.why or f'{integers.bits} bits'})"
    shape = (*values.shape[:2], *[1] * (4 - values.dim()), *values.shape[2:])
    scale = integers.scale.detach().cpu().float().expand(len(values)).clone()
    scale[dead] = 0.0
    signs = torch.where(values < 0, -1, 1).to(torch.int8).reshape(shape)
    return BinaryFilters(signs, scale, int(getattr(layer, "groups", 1)))


def words_for(channels: int) -> int:
    """Words that hold a bit per channel."""
    return -(-channels // WORD)


def pack_filters(filters: BinaryFilters) -> Tensor:
    """``[groups, vectors, rows * columns * words, LANES]`` int32: bit ``c % 32`` of word ``c // 32`` is channel c."""
    signs, groups = filters.signs, filters.groups
    each, channels, *window = signs.shape[0] // groups, *signs.shape[1:]
    vectors, words = -(-each // LANES), words_for(channels)
    bits = torch.zeros(groups, vectors * LANES, *window, words * WORD, dtype=torch.int64)
    bits[:, :each, ..., :channels] = (signs > 0).view(groups, each, channels, *window).movedim(2, -1).long()
    weights = 1 << torch.arange(WORD)
    packed = (bits.view(groups, vectors, LANES, -1, WORD) * weights).sum(-1)
    packed = torch.where(packed >= 1 << (WORD - 1), packed - (1 << WORD), packed)  # as two's complement
    return packed.transpose(2, 3).to(torch.int32).contiguous()


def by_lane(values: Tensor, groups: int) -> Tensor:
    """``[..., filters]`` to ``[..., groups * vectors * LANES]``, zeros where a register holds no filter."""
    each = values.shape[-1] // groups
    lanes = -(-each // LANES) * LANES
    padded = values.new_zeros(*values.shape[:-1], groups, lanes)
    padded[..., :each] = values.view(*values.shape[:-1], groups, each)
    return padded.flatten(-2).contiguous()


def sums_from(
    taps: Tensor, products: int, groups: int, geometry: Geometry, size: tuple[int, int], codes: BinaryCodes
) -> tuple[Tensor, Tensor]:
    """What unequal bits are counted down from, for windows on an image of ``size``.

    The border is packed as bits of 0. With the codes -1 and +1 that is -1, where a convolution has 0: as much as the
    filter has there is added again. With 0 and 1 it is 0 as it should be, and a count weighs half.

    Args:
        taps: of :class:`BinaryFilters`, as the rest.
        products: likewise.
        groups: likewise.
        geometry: of the convolution.
        size: rows and columns of its input.
        codes: of its input.

    Returns:
        The class of each output pixel, int32 ``[rows * columns]``: which taps of its window lie on the border; and
        int32 ``[classes, lanes]``, one number per class and filter.
    """
    all_taps = taps.flatten(1).sum(1, dtype=torch.int32)
    (rows, row_class), (columns, column_class) = (_distinct(geometry.inside(size[dim], dim)) for dim in (0, 1))
    if codes == "01":
        base = ((products + all_taps) // 2)[None]
        classes = torch.zeros(len(row_class), len(column_class))
    else:
        on_image = torch.einsum("ry,cx,fyx->rcf", rows.double(), columns.double(), taps.double())
        base = products + all_taps - on_image.round().to(torch.int32).flatten(0, 1)
        classes = row_class[:, None] * len(columns) + column_class
    return classes.flatten().to(torch.int32).contiguous(), by_lane(base, groups)


def _distinct(rows: Tensor) -> tuple[Tensor, Tensor]:
    """The different rows, and which of them each row is."""
    found: tuple[Tensor, Tensor] = rows.unique(dim=0, return_inverse=True)  # type: ignore[no-untyped-call]
    return found
