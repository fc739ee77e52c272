from __future__ import annotations

from itertools import count

import pytest

from mcomp.metrics import comparison
from mcomp.metrics.comparison import compare


class Clock:
    """Time that passes only where a call says so."""

    def __init__(self) -> None:
        self.now = 0.0

    def perf_counter(self) -> float:
        return self.now

    def spend(self, seconds: float) -> None:
        self.now += seconds


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr(comparison, "time", made)
    return made


def test_ratios_are_those_of_the_same_round_and_hold_on_a_machine_that_slows_down(clock: Clock) -> None:
    rounds = count()
    load = {"now": 1.0}

    def slow() -> None:
        load["now"] = 1.0 + next(rounds)  # every round the machine is busier
        clock.spend(0.003 * load["now"])

    found = compare({"slow": slow, "fast": lambda: clock.spend(0.001 * load["now"])}, warmup=0, rounds=1)
    assert found["fast"].speedup == pytest.approx(3)
    assert found["slow"].speedup == 1
    assert found["fast"].median_ms == pytest.approx(1)


def test_every_round_starts_with_another_one() -> None:
    order: list[str] = []
    compare({name: (lambda name=name: order.append(name)) for name in "abc"}, warmup=0, rounds=3)  # type: ignore[misc]
    assert "".join(order) == "abcbcacab"


def test_warm_up_is_not_measured(clock: Clock) -> None:
    calls = count()
    found = compare({"call": lambda: clock.spend(100.0 if next(calls) < 2 else 0.5)}, warmup=2, rounds=5)
    assert found["call"].median_ms == pytest.approx(500)
    assert found["call"].quartiles == (1, 1)


def test_progress_counts_the_rounds() -> None:
    told: list[tuple[int, int]] = []
    compare({"call": lambda: None}, warmup=0, rounds=3, progress=lambda number, rounds: told.append((number, rounds)))
    assert told == [(1, 3), (2, 3), (3, 3)]
