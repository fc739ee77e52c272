"""Ctrl-C and SIGTERM, turned into a request that training answers at its next safe point."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

from mcomp.errors import InterruptedRun


def _silent(_text: str) -> None:
    """Nobody listens yet."""


class StopFlag:
    """Zero until a signal came, then its number.

    Attributes:
        number: of the signal.
        notice: is told once that the run is about to stop.
    """

    def __init__(self, notice: Callable[[str], None] = _silent) -> None:
        self.number = 0
        self.notice = notice
        self._at_once = False
        self._shielded = False

    def __call__(self) -> int:
        """The signal's number, or zero."""
        return self.number

    def check(self) -> None:
        """Stop here if a signal came.

        Raises:
            InterruptedRun: one did.
        """
        if self.number:
            raise InterruptedRun(self.number)

    def shield(self) -> None:
        """From here on a signal is noted and interrupts nothing: what happened is being written down."""
        self._shielded = True

    @contextmanager
    def at_once(self) -> Iterator[None]:
        """For work that has nothing to lose: the first signal ends the block.

        Raises:
            InterruptedRun: a signal came.
        """
        self._at_once, self._shielded = True, False
        try:
            yield
        except KeyboardInterrupt:
            raise InterruptedRun(self.number or signal.SIGINT) from None
        finally:
            self._at_once = False

    def receive(self, number: int, _frame: FrameType | None) -> None:
        """The signal handler."""
        insisting = bool(self.number)
        self.number = self.number or number
        if self._shielded:
            return
        if insisting or self._at_once:
            raise KeyboardInterrupt
        self.notice("stopping at the next safe point; press Ctrl-C again to stop at once")


@contextmanager
def stop_on_signals(notice: Callable[[str], None] = _silent) -> Iterator[StopFlag]:
    """Watch SIGINT and SIGTERM inside the block; a second signal interrupts at once.

    Outside the main thread Python delivers no signals: the flag then stays zero.
    """
    flag = StopFlag(notice)
    if threading.current_thread() is not threading.main_thread():
        yield flag
        return
    previous = {number: signal.signal(number, flag.receive) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield flag
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
