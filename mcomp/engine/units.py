"""Numbers as text, in the project's units."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any


def top1_text(value: Any) -> str:
    """Percent with two decimals, or a dash."""
    return f"{value:.2f}" if isinstance(value, int | float) else "–"


def count_text(value: Any) -> str:
    """``612 k``, ``1.81 G``: three significant digits of a count."""
    if not isinstance(value, int | float):
        return "–"
    for factor, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= factor:
            return f"{value / factor:.3g} {letter}"
    return f"{value:.0f}"


def seconds_text(value: Any) -> str:
    """Seconds with one decimal below 100, or a dash."""
    if not isinstance(value, int | float):
        return "–"
    return f"{value:.1f}" if value < 100 else f"{value:.0f}"


def cost_text(cost: Any, text: Callable[[Any], str]) -> str:
    """A figure in the words of ``text``, or a range ``low … high``; one figure where both ends read the same."""
    ends = cost if isinstance(cost, list | tuple) else [cost]
    return " … ".join(dict.fromkeys(map(text, ends)))


def bytes_text(value: Any) -> str:
    """``46.8 MB``, decimal units as on disk."""
    if not isinstance(value, int | float):
        return "–"
    for factor, unit in ((1e9, "GB"), (1e6, "MB"), (1e3, "kB")):
        if value >= factor:
            return f"{value / factor:.3g} {unit}"
    return f"{value:.0f} B"


def latency_text(metrics: dict[str, Any]) -> str:
    """``0.31 ms (onnxruntime)``; the backend is named because the rows of a table differ in it."""
    value = metrics.get("latency_ms")
    if not isinstance(value, int | float):
        return "–"
    backend = metrics.get("latency_backend")
    return f"{value:.3g} ms ({backend})" if backend else f"{value:.3g} ms"
