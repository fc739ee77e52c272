"""Observers by name."""

from __future__ import annotations

from collections.abc import Callable
from typing import get_args

from mcomp.errors import UsageError
from mcomp.quantization.observers.base import Observer
from mcomp.quantization.observers.histogram import HistogramObserver
from mcomp.quantization.observers.minmax import MinMaxObserver
from mcomp.quantization.observers.moving_average import MovingAverageObserver
from mcomp.quantization.ranges import Method

_BY_RANGE: dict[str, Callable[[int | None], Observer]] = {
    "minmax": MinMaxObserver,
    "moving_average": MovingAverageObserver,
}

#: Every name that :func:`build_observer` takes.
OBSERVERS: tuple[str, ...] = tuple(dict.fromkeys([*_BY_RANGE, *get_args(Method)]))


def check_observer(name: str, channel_axis: int | None = None) -> None:
    """Refuse an observer that does not exist, or not per channel.

    Raises:
        UsageError: with those that do.
    """
    if name not in OBSERVERS:
        raise UsageError(f"no calibration method `{name}`", code="MC427", hint=f"one of: {', '.join(OBSERVERS)}")
    if channel_axis is not None and name not in _BY_RANGE:
        raise UsageError(
            f"observer `{name}` has no range per channel",
            code="MC427",
            why="it counts the values of the whole tensor",
            hint=f"per channel: {', '.join(_BY_RANGE)}",
        )


def build_observer(name: str, channel_axis: int | None = None) -> Observer:
    """A fresh observer: ``minmax``, ``moving_average``, ``percentile``, ``mse`` or ``entropy``.

    Raises:
        UsageError: there is none of that name.
    """
    check_observer(name, channel_axis)
    if name in _BY_RANGE:
        return _BY_RANGE[name](channel_axis)
    return HistogramObserver(name)  # type: ignore[arg-type]
