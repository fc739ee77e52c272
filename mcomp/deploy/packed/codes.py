"""Small numbers side by side without a gap: so many bits each, or five of three values in a byte."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

#: Of 3 values five fit a byte: 3 ** 5 = 243.
TRITS = 5
_POWERS = 3 ** np.arange(TRITS)
# numbers at a time: their bits are a byte each while they are gathered
_PIECE = 1 << 20

Codes = NDArray[np.uint16]


def pack_bits(codes: Codes, bits: int) -> bytes:
    """``codes`` below ``2 ** bits``, the lowest bit first, from the lowest bit of a byte on.

    Args:
        codes: flat.
        bits: 1 to 16.
    """
    places = np.arange(bits, dtype=np.uint16)
    pieces = [
        np.packbits((codes[start : start + _PIECE, None] >> places & 1).astype(np.uint8), bitorder="little").tobytes()
        for start in range(0, len(codes), _PIECE)  # a piece ends with a byte: its length is a multiple of 8
    ]
    return b"".join(pieces)


def unpack_bits(data: NDArray[np.uint8], bits: int, count: int) -> Codes:
    """The first ``count`` codes of :func:`pack_bits`."""
    codes = np.empty(count, np.uint16)
    weights = (1 << np.arange(bits)).astype(np.uint16)
    for start in range(0, count, _PIECE):
        size = min(_PIECE, count - start)
        piece = data[start * bits // 8 : -(-(start + size) * bits // 8)]
        found = np.unpackbits(piece, bitorder="little", count=size * bits).reshape(size, bits)
        codes[start : start + size] = found @ weights
    return codes


def pack_trits(codes: Codes) -> bytes:
    """``codes`` below 3, five per byte, the first one the lowest digit."""
    padded: NDArray[Any] = np.zeros(-(-len(codes) // TRITS) * TRITS, np.int64)
    padded[: len(codes)] = codes
    return (padded.reshape(-1, TRITS) @ _POWERS).astype(np.uint8).tobytes()


def unpack_trits(data: NDArray[np.uint8], count: int) -> Codes:
    """The first ``count`` codes of :func:`pack_trits`."""
    digits = data[:, None] // _POWERS % 3
    return digits.reshape(-1)[:count].astype(np.uint16)


def bytes_for(count: int, bits: int | None) -> int:
    """Bytes that ``count`` codes take; ``bits`` None is five in a byte."""
    return -(-count // TRITS) if bits is None else -(-count * bits // 8)
