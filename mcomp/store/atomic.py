"""Writes that are either there in full or not there at all, also after a power cut.

A file is written beside its target, synced, renamed over it, and the folder is synced. What the operating
system refuses on the way becomes a :class:`~mcomp.errors.StoreError` that says where and how much room is left.
"""

from __future__ import annotations

import errno
import json
import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

from mcomp.errors import StoreError
from mcomp.store.digest import finite

TEMPORARY = ".tmp"
"""Suffix of a file that is not yet in place; one left by a killed process is never read."""

#: Codes of a store whose disk is full, or that may only be read.
UNWRITABLE = frozenset({"MC302", "MC303"})

_FULL = {errno.ENOSPC, errno.EDQUOT}
_FORBIDDEN = {errno.EROFS, errno.EACCES, errno.EPERM}


def write_bytes(path: Path, data: bytes) -> None:
    """Put ``data`` at ``path``, atomically. Missing folders are made.

    Raises:
        StoreError: the disk is full, read-only, or the folder may not be written.
    """
    with replacing(path) as file:
        file.write(data)


def write_text(path: Path, text: str) -> None:
    """Put UTF-8 ``text`` at ``path``, atomically."""
    write_bytes(path, text.encode())


def write_json(path: Path, obj: Any, *, compact: bool = False) -> None:
    """Put ``obj`` at ``path`` as JSON, indented unless ``compact``, atomically; NaN and infinities become strings."""
    form: dict[str, Any] = {"separators": (",", ":")} if compact else {"indent": 1}
    write_text(path, json.dumps(finite(obj), ensure_ascii=False, allow_nan=False, **form) + "\n")


def read_bytes(path: Path) -> bytes | None:
    """The bytes of a file, None where there is none.

    Raises:
        StoreError: MC303, it is there but may not or cannot be read.
    """
    try:
        return path.read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise StoreError(
            f"cannot read `{path}`",
            code="MC303",
            why=f"{error.strerror or error} (errno {error.errno})",
            hint="check its rights and the disk, or use another store with `--store <folder>`",
        ) from error


@contextmanager
def replacing(path: Path) -> Iterator[IO[bytes]]:
    """A binary file that takes the place of ``path`` once the block ends without an error."""
    temporary = path.parent / f".{path.name}.{secrets.token_hex(6)}{TEMPORARY}"
    with storage_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with open(temporary, "xb") as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, path)
        except BaseException:
            with suppress(OSError):  # the first error is the one to report
                temporary.unlink()
            raise
        sync_folder(path.parent)


def make_folder(path: Path) -> Path:
    """Make ``path`` with its parents, and return it."""
    with storage_errors(path):
        path.mkdir(parents=True, exist_ok=True)
    return path


def sync_file(path: Path) -> None:
    """Push a file's bytes to the disk."""
    with open(path, "rb") as file:
        os.fsync(file.fileno())


def sync_folder(path: Path) -> None:
    """Push a folder's entries to the disk, where the file system can."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in {errno.EINVAL, errno.ENOTSUP}:  # some network file systems sync no folders
            raise
    finally:
        os.close(descriptor)


@contextmanager
def storage_errors(path: Path) -> Iterator[None]:
    """Turn what the operating system refuses into a StoreError about ``path``.

    Raises:
        StoreError: MC302 full, MC303 forbidden or read-only, MC306 anything else.
    """
    try:
        yield
    except OSError as error:
        raise storage_error(error, path) from error


def storage_error(error: OSError, path: Path) -> StoreError:
    """The StoreError that stands for ``error``, met while writing ``path``."""
    folder = _existing(path.parent)
    elsewhere = "put the store elsewhere with `--store <folder>` or MCOMP_STORE"
    why = f"{error.strerror or error} (errno {error.errno})"
    if error.errno in _FULL:
        room = _free(folder)
        return StoreError(
            f"no room left to write `{path}`: {room} free in `{folder}`",
            code="MC302",
            why=why,
            hint=f"free some space there, or {elsewhere}; the same command then goes on",
        )
    if error.errno in _FORBIDDEN:
        kind = "is read-only" if error.errno == errno.EROFS else "may not be written by this user"
        return StoreError(
            f"cannot write `{path}`: `{folder}` {kind}",
            code="MC303",
            why=why,
            hint=f"change its rights, or {elsewhere}",
        )
    if error.errno in {errno.ENOTDIR, errno.EEXIST}:
        return StoreError(
            f"cannot write `{path}`: a file stands where a folder is needed", code="MC306", why=why, hint=elsewhere
        )
    return StoreError(f"cannot write `{path}`", code="MC306", why=why, hint=f"check the disk, or {elsewhere}")


def _existing(folder: Path) -> Path:
    while not folder.is_dir() and folder != folder.parent:
        folder = folder.parent
    return folder


def _free(folder: Path) -> str:
    try:
        return f"{shutil.disk_usage(folder).free / 2**20:.1f} MiB"
    except OSError:
        return "an unknown amount"
