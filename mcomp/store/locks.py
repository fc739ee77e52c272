"""One process at a time per key, on this machine and on file systems that honour ``flock``.

The kernel drops the lock with the process, so a killed run never leaves the store locked.
"""

from __future__ import annotations

import errno
import fcntl
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from mcomp.errors import InterruptedRun, StoreError
from mcomp.store.atomic import storage_errors

_FIRST_PAUSE, _LONGEST_PAUSE = 0.02, 0.5  # seconds
#: Seconds after which a lock counts as held: the store's care takes one for an instant, to see that nobody has it.
_INSTANT = 0.1


@contextmanager
def hold(
    path: Path,
    *,
    wait: bool = True,
    timeout: float | None = None,
    on_wait: Callable[[int], None] | None = None,
    should_stop: Callable[[], int] = lambda: 0,
) -> Iterator[None]:
    """Hold the lock file ``path`` for the length of the block.

    Args:
        path: the lock file, made and removed here.
        wait: False to give up at once when another process holds it.
        timeout: seconds to wait at most; None waits for ever.
        on_wait: called once with the holder's process id (0 if unknown) before waiting.
        should_stop: a signal number once the run was asked to stop; looked at while waiting.

    Raises:
        StoreError: MC301, held by another process and the wait is over.
        InterruptedRun: asked to stop while waiting.
    """
    descriptor = _acquire(path, timeout if wait else 0.0, on_wait, should_stop)
    try:
        yield
    finally:
        path.unlink(missing_ok=True)  # while still held: a waiter notices that its file is gone and starts over
        os.close(descriptor)


def _acquire(
    path: Path, timeout: float | None, on_wait: Callable[[int], None] | None, should_stop: Callable[[], int]
) -> int:
    started, pause, told = time.monotonic(), _FIRST_PAUSE, False
    while True:
        descriptor = _try(path)
        if descriptor is not None:
            return descriptor
        holder = _holder(path)
        if timeout is not None and time.monotonic() - started >= max(timeout, _INSTANT):
            waited = f" after {timeout:g} s of waiting" if timeout else ""
            raise StoreError(
                f"`{path.stem[:16]}` is being computed by process {holder or 'unknown'}{waited}",
                code="MC301",
                why=f"it holds `{path}`",
                hint="wait for it and run the same command again, or stop that process",
            )
        if signal_number := should_stop():
            raise InterruptedRun(signal_number)
        if not told and on_wait is not None:
            told = True
            on_wait(holder)
        time.sleep(pause)
        pause = min(2 * pause, _LONGEST_PAUSE)


def _try(path: Path) -> int | None:
    """The descriptor of the locked file, or None while another one has it."""
    with storage_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if os.fstat(descriptor).st_ino != os.stat(path).st_ino:
                raise FileNotFoundError(errno.ENOENT, "the lock file was removed by its last holder")
            os.ftruncate(descriptor, 0)
            os.write(descriptor, f"{os.getpid()}\n".encode())
        except (BlockingIOError, FileNotFoundError):
            os.close(descriptor)
            return None
        except BaseException:
            os.close(descriptor)
            raise
    return descriptor


def _holder(path: Path) -> int:
    try:
        return int(path.read_text())
    except (OSError, ValueError):  # it let go, or has not written its number yet
        return 0
