"""Freed memory stays with the process: asking the kernel for it anew at every step is a quarter of training's CPU time.

By default glibc hands large blocks back on every free, and the kernel zeroes each page again when it is next touched.
For networks on the CPU, whose activations are exactly such blocks, that is most of the system time of a step.
"""

from __future__ import annotations

import ctypes
import os
import sys

# mallopt(3); the constants of <malloc.h>.
_TRIM_THRESHOLD, _MMAP_THRESHOLD, _ARENA_MAX = -1, -3, -8
_LARGEST = 2**31 - 1
#: Blocks from this size on still go back at once: they are data sets, not activations.
_MAPPED = 1 << 30
#: Set by a person who has tuned malloc.
_TUNED = ("MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_THRESHOLD_", "MALLOC_ARENA_MAX", "GLIBC_TUNABLES")


def keep_freed_memory() -> bool:
    """Tell glibc's malloc, for this whole process, to keep what is freed and to serve every thread from it.

    Returns:
        Whether it was told: on Linux with glibc, unless an environment variable tunes malloc already.
    """
    if not sys.platform.startswith("linux") or any(name in os.environ for name in _TUNED):
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:  # another C library
        return False
    # one arena: what backward, which runs in a thread of its own, frees is then what the next forward takes
    settings = ((_MMAP_THRESHOLD, _MAPPED), (_TRIM_THRESHOLD, _LARGEST), (_ARENA_MAX, 1))
    told = [mallopt(*setting) for setting in settings]
    return all(told)
