"""Plain scalars by the YAML 1.2 core schema (https://yaml.org/spec/1.2.2/#103-core-schema)."""

from __future__ import annotations

import math
import re

Scalar = str | int | float | bool | None

_NULL = {"", "~", "null", "Null", "NULL"}
_BOOL = {"true": True, "True": True, "TRUE": True, "false": False, "False": False, "FALSE": False}
_INT = re.compile(r"[-+]?[0-9]+")
_OCTAL = re.compile(r"0o[0-7]+")
_HEX = re.compile(r"0x[0-9a-fA-F]+")
_FLOAT = re.compile(r"[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?")
_INFINITY = re.compile(r"([-+]?)\.(?:inf|Inf|INF)")
_NAN = re.compile(r"\.(?:nan|NaN|NAN)")

LARGEST = 2**63
_MOST_DIGITS = 40  # far past 64 bits; keeps int() off megabytes of digits


def resolve(text: str) -> Scalar:
    """The value of an unquoted scalar: ``1e-3`` a float, ``010`` ten, ``off`` a string.

    Raises:
        ValueError: an integer that does not fit in 64 bits.
    """
    if text in _NULL:
        return None
    if text in _BOOL:
        return _BOOL[text]
    if text[0] not in "+-.0123456789":
        return text
    for pattern, base in ((_INT, 10), (_OCTAL, 8), (_HEX, 16)):
        if pattern.fullmatch(text):
            return _integer(text, base)
    if _FLOAT.fullmatch(text):
        return float(text)
    if found := _INFINITY.fullmatch(text):
        return -math.inf if found[1] == "-" else math.inf
    if _NAN.fullmatch(text):
        return math.nan
    return text


def _integer(text: str, base: int) -> int:
    digits = text if base == 10 else text[2:]
    value = int(digits, base) if len(digits) <= _MOST_DIGITS else LARGEST
    if not -LARGEST <= value < LARGEST:
        raise ValueError("the number does not fit in 64 bits")
    return value
