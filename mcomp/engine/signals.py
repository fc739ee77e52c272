"""Ctrl-C and SIGTERM, turned into a request that training answers at its next safe point."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType


class StopFlag:
    """Zero until a signal came, then its number."""

    def __init__(self) -> None:
        self.number = 0

    def __call__(self) -> int:
        """The signal's number, or zero."""
        return self.number


@contextmanager
def stop_on_signals(notice: Callable[[str], None]) -> Iterator[StopFlag]:
    """Watch SIGINT and SIGTERM inside the block; a second SIGINT interrupts at once.

    Outside the main thread Python delivers no signals: the flag then stays zero.
    """
    flag = StopFlag()
    if threading.current_thread() is not threading.main_thread():
        yield flag
        return

    def on_signal(number: int, _frame: FrameType | None) -> None:
        if flag.number:
            raise KeyboardInterrupt
        flag.number = number
        notice("stopping at the next safe point; press Ctrl-C again to stop at once")

    previous = {number: signal.signal(number, on_signal) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield flag
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
