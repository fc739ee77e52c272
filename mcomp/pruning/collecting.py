"""Python's search for cycles, put off for a moment."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def no_collection() -> Iterator[None]:
    """Inside, Python does not look for unreachable cycles.

    A trace makes many small objects that stay, and none in cycles. Python takes their number for a sign of garbage and
    looks through all that PyTorch ever loaded, which takes longer than the trace itself.
    """
    if not gc.isenabled():
        yield
        return
    gc.disable()
    try:
        yield
    finally:
        gc.enable()
