"""The file: a length, a JSON header, tensors aligned to 8 bytes, a checksum; after the manner of safetensors."""

from __future__ import annotations

import json
import os
import secrets
import zlib
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mcomp.errors import StageError

FORMAT, VERSION = "mcomp-packed", 1
_ALIGNED = 8
_CHECK = 4  # bytes of CRC-32 at the end
# a header is read before anything vouches for its length
_LONGEST_HEADER = 1 << 28
_START = f'{{"format":"{FORMAT}"'.encode()


class Body:
    """The tensors of a file that is being written; what is added twice is stored once."""

    def __init__(self) -> None:
        self._parts: list[bytes] = []
        self._seen: dict[bytes, int] = {}
        self.size = 0

    def add(self, data: bytes) -> int:
        """Where ``data`` starts, in bytes from the first tensor on."""
        if data in self._seen:
            return self._seen[data]
        start = self._seen[data] = self.size
        self._parts += [data, bytes(-len(data) % _ALIGNED)]
        self.size += len(data) + -len(data) % _ALIGNED
        return start

    def write(self, path: Path, tensors: dict[str, dict[str, Any]], metadata: dict[str, str]) -> int:
        """Put the whole file at ``path``, in full or not at all; returns its bytes.

        Raises:
            StageError: MC472, the system refuses.
        """
        header = {"format": FORMAT, "version": VERSION, "metadata": metadata, "tensors": tensors}
        text = json.dumps(header, separators=(",", ":"), allow_nan=False).encode()
        text += b" " * (-len(text) % _ALIGNED)
        whole = b"".join([len(text).to_bytes(8, "little"), text, *self._parts])
        whole += zlib.crc32(whole).to_bytes(_CHECK, "little")
        _replace(path, whole)
        return len(whole)


def read(path: Path) -> tuple[dict[str, Any], NDArray[np.uint8]]:
    """Header and tensors of a file.

    Raises:
        StageError: MC472, it cannot be read, is none of ours, or is damaged; MC473, a newer mcomp wrote it.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise StageError(
            f"the packed file `{path}` cannot be read",
            code="MC472",
            why=error.strerror or str(error),
            hint="check the path and its rights",
        ) from error
    length = int.from_bytes(data[:8], "little")
    if not data[8:].startswith(_START):
        raise StageError(
            f"`{path}` is not a packed file",
            code="MC472",
            why=f"its {len(data)} bytes do not start with a header of format `{FORMAT}`",
            hint="give a file of `mcomp.deploy.pack`",
        )
    if length > min(_LONGEST_HEADER, len(data) - 8 - _CHECK):
        raise _damaged(path, f"its header alone has {length} bytes, the file {len(data)}")
    if zlib.crc32(memoryview(data)[:-_CHECK]) != int.from_bytes(data[-_CHECK:], "little"):
        raise _damaged(path, f"the checksum of its {len(data)} bytes is another one than it ends with")
    try:
        header = json.loads(data[8 : 8 + length], object_pairs_hook=_distinct, parse_constant=_no_number)
    except (ValueError, RecursionError, MemoryError) as error:
        raise _damaged(path, f"its header is no JSON of this format ({type(error).__name__})") from error
    version = header.get("version")
    if type(version) is not int or version < 1:  # True is an int to Python
        raise _damaged(path, "its header names no version of the format")
    if version > VERSION:
        raise StageError(
            f"`{path}` has version {version} of its format",
            code="MC473",
            why=f"this mcomp reads versions up to {VERSION}",
            hint="upgrade mcomp: `pip install --upgrade mcomp`",
        )
    return header, np.frombuffer(data, np.uint8)[8 + length : -_CHECK]


def _distinct(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("a name stands twice in one object")
    return found


def _no_number(name: str) -> None:
    raise ValueError(f"{name} is no number of JSON")


def _damaged(path: Path, why: str) -> StageError:
    return StageError(
        f"`{path}` is truncated or damaged", code="MC472", why=why, hint="copy it again from where it is whole"
    )


def _replace(path: Path, data: bytes) -> None:
    beside = path.parent / f".{path.name}.{secrets.token_hex(6)}.tmp"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(beside, "xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(beside, path)
    except OSError as error:
        with suppress(OSError):  # the first error is the one to report
            beside.unlink()
        raise StageError(
            f"the packed file `{path}` cannot be written",
            code="MC472",
            why=error.strerror or str(error),
            hint="check the rights of its folder and the room on the disk",
        ) from error
