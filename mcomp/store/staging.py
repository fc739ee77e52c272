"""Folders on their way into the store: filled, sealed with sizes and digests, moved in one step."""

from __future__ import annotations

import errno
import fcntl
import os
import secrets
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from mcomp.store import atomic
from mcomp.store.digest import parse_json, sha256_file

_ORPHAN_AGE = 60.0  # seconds; a folder this young may not have its lock yet


@contextmanager
def folder(parent: Path) -> Iterator[Path]:
    """An empty folder under ``parent``, gone after the block unless it was moved away.

    It is locked by this process, so the next one can tell a folder in use from one that a killed process left.
    """
    atomic.make_folder(parent)
    _remove_orphans(parent)
    path = parent / secrets.token_hex(8)
    with atomic.storage_errors(path):
        path.mkdir()
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        fcntl.flock(descriptor, fcntl.LOCK_EX)
    try:
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)  # what stays is an orphan, and the next staging removes it
        os.close(descriptor)


def seal(path: Path, manifest: dict[str, Any], name: str) -> dict[str, Any]:
    """Sync every file of a staged folder and return its manifest with ``files`` complete.

    Args:
        path: the staged folder. A manifest already in it lies under ``manifest``.
        manifest: see :meth:`mcomp.store.Store.commit`.
        name: the manifest's file name, which is not among ``files``.
    """
    below = parse_json((path / name).read_bytes()) if (path / name).exists() else {}
    complete = {**below, **manifest}
    files = dict(complete.get("files") or {})
    for file in sorted(path.rglob("*")):
        relative = file.relative_to(path).as_posix()
        if file.is_dir():
            atomic.sync_folder(file)
        elif relative != name:
            atomic.sync_file(file)
            if relative not in files:
                files[relative] = {"sha256": sha256_file(file), "bytes": file.stat().st_size}
    return {**complete, "files": files}


def move(path: Path, target: Path) -> None:
    """Move a sealed folder to ``target``; where another process was faster, leave its folder there."""
    atomic.sync_folder(path)
    try:
        os.rename(path, target)
    except OSError as error:
        if error.errno not in {errno.ENOTEMPTY, errno.EEXIST}:
            raise
    atomic.sync_folder(target.parent)


def faults(path: Path, manifest: dict[str, Any], deep: bool) -> list[str]:
    """Files of a sealed folder that are missing, of another size or, when ``deep``, of other content."""
    found = []
    for name, expected in (manifest.get("files") or {}).items():
        try:
            size = (path / name).stat().st_size
        except OSError:
            found.append(f"`{name}` is missing")
            continue
        if size != expected.get("bytes"):
            found.append(f"`{name}` has {size} bytes instead of {expected.get('bytes')}")
        elif deep and sha256_file(path / name) != expected.get("sha256"):
            found.append(f"`{name}` has other content than was written")
    return found


def is_abandoned(path: Path) -> bool:
    """Whether a folder of :func:`folder` was left by a process that is gone."""
    try:
        if not path.is_dir() or time.time() - path.stat().st_mtime < _ORPHAN_AGE:
            return False
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:  # its owner is just done with it
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    finally:
        os.close(descriptor)
    return True


def _remove_orphans(parent: Path) -> None:
    for path in parent.iterdir():
        if is_abandoned(path):
            shutil.rmtree(path, ignore_errors=True)
