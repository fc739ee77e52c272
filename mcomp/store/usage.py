"""Marks of the processes that use a store, so that garbage collection leaves alone what they touch.

A mark is a locked file; the kernel unlocks it with the process, however that ends. What a process relies on it touches
(the time of an action's record is its last use), so everything touched since the oldest live mark may be in use.
"""

from __future__ import annotations

import fcntl
import os
import secrets
import weakref
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

PREFIX = "use."


@dataclass(frozen=True)
class User:
    """A process that uses the store: its id, and when it began by the file system's clock (seconds)."""

    process: int
    since: float


def mark(owner: object, folder: Path) -> Callable[[], object]:
    """Say that this process uses the store, until ``owner`` is gone; the function returned ends it earlier.

    Where nothing can be written, nothing can be collected either, and no mark is made.
    """
    path = folder / f"{PREFIX}{os.getpid()}.{secrets.token_hex(4)}"
    while True:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        except OSError:
            return lambda: None
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        if _is_still(path, descriptor):
            return weakref.finalize(owner, _release, path, descriptor, os.getpid())
        os.close(descriptor)  # a collector took the file for a dead process's before it was locked


def users(folder: Path) -> list[User]:
    """The processes that use the store now; marks of dead ones are removed."""
    found = []
    for path in sorted(folder.glob(f"{PREFIX}*")) if folder.is_dir() else []:
        with suppress(FileNotFoundError):  # its owner is just done
            descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                path.unlink()
            except BlockingIOError:
                found.append(User(int(path.name.split(".")[1]), os.fstat(descriptor).st_mtime))
            finally:
                os.close(descriptor)
    return found


def touch(path: Path) -> bool:
    """Note a use of ``path`` now; False when it is gone, so that nobody relies on what was just collected."""
    try:
        os.utime(path)
    except FileNotFoundError:
        return False
    except OSError:  # read-only, or another user's: it stays where it is
        return True
    return True


def _release(path: Path, descriptor: int, process: int) -> None:
    if os.getpid() == process:  # a forked worker that ends must not end its parent's use
        with suppress(OSError):  # the store may have been removed, or be read-only by now: the lock goes either way
            path.unlink()
    os.close(descriptor)


def _is_still(path: Path, descriptor: int) -> bool:
    try:
        return os.stat(path).st_ino == os.fstat(descriptor).st_ino
    except FileNotFoundError:
        return False
