"""A flat file of tensors: written atomically, read without unpickling code, digested by content.

Digests are over ``(dtype, shape, bytes)``, never over files: two saves of one state differ as files.
"""

from __future__ import annotations

import hashlib
import pickle
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, cast

from mcomp.errors import StoreError
from mcomp.store import atomic
from mcomp.store.digest import sha256_json

if TYPE_CHECKING:
    from torch import Tensor


def write_tensors(path: Path, state: Any) -> None:
    """``torch.save`` to ``path``, atomically, with the store's errors for a full or read-only disk."""
    with atomic.replacing(path) as file:
        write_state(file, state)


def write_state(file: IO[bytes], state: Any) -> None:
    """``torch.save`` to an open file; an ``OSError`` stays one."""
    import torch

    refused: list[OSError] = []
    try:
        torch.save(state, cast(IO[bytes], _Watched(file, refused)))
    except RuntimeError as error:  # torch hides the disk's refusal behind "failed writing file"
        if refused:
            raise refused[0] from error
        raise


def read_tensors(path: Path) -> dict[str, Tensor]:
    """The flat dict of CPU tensors in ``path``; nothing in the file is executed.

    Raises:
        StoreError: MC312 missing, truncated or damaged; MC313 it holds something else than named tensors.
    """
    import torch

    if not path.is_file():
        raise StoreError(f"`{path}` is missing", code="MC312", hint="copy the whole artifact folder, or make it again")
    foreign = StoreError(
        f"`{path}` does not hold plain named tensors",
        code="MC313",
        why="an artifact keeps tensors only; nothing else in the file was read or run",
        hint="do not use this file; make the artifact again with `mcomp.save_model`",
    )
    try:
        with zipfile.ZipFile(path):  # torch would look for older formats in anything else
            found = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except pickle.UnpicklingError as error:
        raise foreign from error
    except (OSError, EOFError, RuntimeError, ValueError, zipfile.BadZipFile) as error:
        raise StoreError(
            f"`{path}` ({path.stat().st_size} bytes) is truncated or damaged",
            code="MC312",
            why=str(error).strip().partition("\n")[0],
            hint="copy it again from where it is whole, or make the artifact again",
        ) from error
    if not isinstance(found, dict) or not all(isinstance(k, str) and type(v) is torch.Tensor for k, v in found.items()):
        raise foreign
    return found


def plain(tensor: Tensor) -> Tensor:
    """``tensor`` on the CPU, contiguous, and alone in its memory, so that a file holds no more than its values."""
    result = tensor.detach().cpu().contiguous()
    alone = result.untyped_storage().nbytes() == result.numel() * result.element_size()
    return result if alone else result.clone()


def describe(tensor: Tensor) -> dict[str, Any]:
    """``{"dtype", "shape", "sha256"}`` of a tensor, independent of its strides and its device."""
    return {
        "dtype": str(tensor.dtype).removeprefix("torch."),
        "shape": list(tensor.shape),
        "sha256": content_digest(tensor),
    }


def content_digest(tensor: Tensor) -> str:
    """Hexadecimal SHA-256 of a tensor's values in row-major order."""
    import torch

    rows = tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8)
    values: Any = rows.numpy()  # numpy's stubs do not say that an array is a buffer
    return hashlib.sha256(values).hexdigest()


def state_digest(state: Mapping[str, Tensor]) -> str:
    """One SHA-256 over names, dtypes, shapes and values; the order of the names does not matter."""
    return sha256_json({name: describe(tensor) for name, tensor in state.items()})


class _Watched:
    """A file that remembers why the system refused a write."""

    def __init__(self, file: Any, refused: list[OSError]) -> None:
        self._file, self._refused = file, refused

    def write(self, data: Any) -> int:
        try:
            return int(self._file.write(data))
        except OSError as error:
            self._refused.append(error)
            raise

    def flush(self) -> None:
        self._file.flush()
