"""Weights of few bits, stored in as many: ONNX has INT4 since opset 21 and INT2 since 25.

Runtimes unpack them where they load or run the file, so this saves bytes, not time.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import TensorProto

from mcomp.deploy.profiles.base import Profile

#: Type to its range, to the opset that has it, and to the file format that goes with that.
INTEGERS = {"int2": (-2, 1), "int4": (-8, 7)}
OPSETS = {"int4": 21, "int2": 25}
FORMATS = {"int4": 10, "int2": 13}


def narrowest(values: NDArray[Any], readers: Collection[str], target: Profile, *, beside_integers: bool) -> str:
    """The narrowest type that holds ``values`` and that ``target`` takes for the layers that read them.

    Args:
        values: integers.
        readers: ONNX names of the layers.
        target: the profile.
        beside_integers: whether one of the layers reads integers.
    """
    low, high = int(values.min(initial=0)), int(values.max(initial=0))
    even = values.ndim > 0 and values.shape[-1] % 2 == 0
    two_bits: frozenset[str] = frozenset() if beside_integers else target.two_bits
    for name, taken in (("int2", two_bits), ("int4", target.four_bits)):
        smallest, largest = INTEGERS[name]
        fits = smallest <= low and high <= largest and (even or not target.even_rows)
        known = hasattr(TensorProto, name.upper())  # of the installed onnx
        if fits and known and taken.issuperset(readers):
            return name
    return str(values.dtype.name)


def stored(values: NDArray[Any], kind: str) -> NDArray[Any]:
    """``values`` as an array of that type."""
    import ml_dtypes

    return values.astype(getattr(ml_dtypes, kind, None) or np.dtype(kind))
