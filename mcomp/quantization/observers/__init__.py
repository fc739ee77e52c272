"""Observers: what they keep of the tensors they see, and the clip range they derive from it. One idea per file."""

from __future__ import annotations

from mcomp.quantization.observers.base import Observer
from mcomp.quantization.observers.choice import OBSERVERS, build_observer, check_observer
from mcomp.quantization.observers.extremes import extremes, finite_extremes
from mcomp.quantization.observers.float_histogram import FloatHistogram
from mcomp.quantization.observers.histogram import HistogramObserver
from mcomp.quantization.observers.minmax import MinMaxObserver
from mcomp.quantization.observers.moving_average import MovingAverageObserver

__all__ = [
    "OBSERVERS",
    "FloatHistogram",
    "HistogramObserver",
    "MinMaxObserver",
    "MovingAverageObserver",
    "Observer",
    "build_observer",
    "check_observer",
    "extremes",
    "finite_extremes",
]
