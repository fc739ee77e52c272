"""Torch on another number of threads for a while: to time it, or to add up in one order."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager

import torch


@contextmanager
def threads(number: int | None) -> Iterator[None]:
    """So many intra-op threads inside the block; None keeps the current number."""
    before = torch.get_num_threads()
    if number is not None:
        torch.set_num_threads(number)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def one_thread() -> AbstractContextManager[None]:
    """With several threads a sum depends on their number; what has to be the same anywhere is computed on one."""
    return threads(1)
