from __future__ import annotations

import os
import signal
import threading

import pytest

from mcomp.engine.signals import stop_on_signals
from mcomp.errors import InterruptedRun


def test_the_first_signal_asks_and_the_second_insists() -> None:
    said: list[str] = []
    with stop_on_signals(said.append) as stop:
        assert stop() == 0
        os.kill(os.getpid(), signal.SIGTERM)
        assert stop() == signal.SIGTERM
        assert len(said) == 1
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)


def test_the_old_handlers_come_back() -> None:
    before = signal.getsignal(signal.SIGINT)
    with stop_on_signals(lambda _text: None):
        assert signal.getsignal(signal.SIGINT) is not before
    assert signal.getsignal(signal.SIGINT) is before


def test_in_another_thread_the_flag_stays_down() -> None:
    seen: list[int] = []

    def work() -> None:
        with stop_on_signals(lambda _text: None) as stop:
            seen.append(stop())

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [0]


def test_work_with_nothing_to_lose_ends_at_the_first_signal() -> None:
    with stop_on_signals() as stop:
        with pytest.raises(InterruptedRun) as error, stop.at_once():
            os.kill(os.getpid(), signal.SIGTERM)
        assert error.value.exit_status == 143
        with pytest.raises(InterruptedRun):
            stop.check()


def test_the_exit_code_is_the_first_signal_s() -> None:
    with stop_on_signals() as stop:
        os.kill(os.getpid(), signal.SIGTERM)
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
        assert stop() == signal.SIGTERM


def test_while_the_end_is_written_down_no_signal_interrupts() -> None:
    with stop_on_signals() as stop:
        stop.shield()
        for _ in range(3):
            os.kill(os.getpid(), signal.SIGINT)
        assert stop() == signal.SIGINT
