"""Digests that do not depend on the order of keys, the machine or the clock."""

from __future__ import annotations

import hashlib
import json
import math
from pathlib import Path
from typing import Any

_BLOCK = 1 << 20


def canonical_json(obj: Any) -> bytes:
    """``obj`` as JSON with sorted keys and no blanks: equal values give equal bytes.

    Raises:
        TypeError: a key is not a string, or a value is no JSON type.
        ValueError: a number is NaN or infinite, text holds half a surrogate pair, or it is nested too deeply.
    """
    try:
        _require_text_keys(obj)
        return json.dumps(obj, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False).encode()
    except RecursionError as error:
        raise ValueError("nested too deeply") from error


def parse_json(text: str | bytes) -> Any:
    """What a JSON text of the store says.

    Raises:
        ValueError: it is damaged, were it only by more brackets within brackets than Python takes.
    """
    try:
        return json.loads(text)
    except RecursionError as error:
        raise ValueError("nested too deeply") from error


def sha256_json(obj: Any) -> str:
    """Hexadecimal SHA-256 of :func:`canonical_json`."""
    return hashlib.sha256(canonical_json(obj)).hexdigest()


def sha256_file(path: Path | str) -> str:
    """Hexadecimal SHA-256 of a file's bytes."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(_BLOCK):
            digest.update(block)
    return digest.hexdigest()


def finite(obj: Any) -> Any:
    """A copy of ``obj`` in which NaN and infinities are ``"nan"``, ``"inf"``, ``"-inf"``: JSON has no word for them.

    Tuples become lists, as JSON would make them.
    """
    if isinstance(obj, dict):
        return {key: finite(value) for key, value in obj.items()}
    if isinstance(obj, list | tuple):
        return [finite(value) for value in obj]
    if isinstance(obj, float) and not math.isfinite(obj):
        return str(obj)
    return obj


def _require_text_keys(obj: Any) -> None:
    # json would turn the key 1 into "1", and two different objects would share a digest
    if isinstance(obj, dict):
        for key, value in obj.items():
            if not isinstance(key, str):
                raise TypeError(f"the key {key!r} of a hashed object is no string")
            _require_text_keys(value)
    elif isinstance(obj, list | tuple):
        for value in obj:
            _require_text_keys(value)
