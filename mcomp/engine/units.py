"""Numbers as text, in the project's units."""

from __future__ import annotations

from collections.abc import Callable, Mapping
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


def size_text(metrics: Mapping[str, Any]) -> str:
    """``38.1 kB (file)`` of what a stage deploys, which is not what others are measured by, the saved model."""
    text = bytes_text(metrics.get("bytes"))
    return f"{text} ({metrics['bytes_of']})" if metrics.get("bytes_of") else text


def latency_text(metrics: Mapping[str, Any]) -> str:
    """``0.31 ms (onnxruntime)``; the backend is named because the rows of a table differ in it.

    An engine's own comes first: of the same file in ONNX Runtime, which only checks it, the time says little.
    """
    if isinstance(own := metrics.get("engine_latency_ms"), int | float):
        return f"{own:.3g} ms (tensorrt), {latency_text({**metrics, 'engine_latency_ms': None})}"
    value = metrics.get("latency_ms")
    if not isinstance(value, int | float):
        return "–"
    backend = metrics.get("latency_backend")
    return f"{value:.3g} ms ({backend})" if backend else f"{value:.3g} ms"
