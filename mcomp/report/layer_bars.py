"""What a stage did to each layer, as bars: the widths that pruning left, the zeros that a mask put in."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mcomp.engine.display import escaped


def layer_bars(stage: str, details: Mapping[str, Any]) -> str:
    """The section of a stage whose details hold a table of layers; empty where they hold none.

    Args:
        stage: its id.
        details: ``layers``: ``{"layer": name, "before": width, "after": width}``, or ``"sparsity"``, percent of zeros.
    """
    layers = details.get("layers")
    rows = [row for row in layers if isinstance(row, dict)] if isinstance(layers, list) else []
    widths = [row for row in rows if _is_count(row.get("before")) and _is_count(row.get("after"))]
    masked = [row for row in rows if _is_percent(row.get("sparsity"))]
    if widths:
        largest = max(1, *(row["before"] for row in widths))
        bars = [_width_bar(row, largest) for row in widths]
        title, key = f"{stage}: channels of each layer", "what stays, in front of what there was"
    elif masked:
        bars = [_zero_bar(row) for row in masked]
        title, key = f"{stage}: zeros in each layer", "percent of the layer's weights"
    else:
        return ""
    return (
        f"<section><h2>{escaped(title)}</h2><p>{escaped(key)}</p>"
        f'<table class="bars"><tbody>{"".join(bars)}</tbody></table></section>\n'
    )


def _width_bar(row: Mapping[str, Any], largest: int) -> str:
    before, after = row["before"], row["after"]
    text = f"{after} of {before}" if after != before else f"{before}, whole"
    return _bar(row, 100 * before / largest, 100 * min(after, before) / largest, text)


def _zero_bar(row: Mapping[str, Any]) -> str:
    return _bar(row, 100.0, row["sparsity"], f"{row['sparsity']:.1f} %")


def _bar(row: Mapping[str, Any], whole: float, part: float, text: str) -> str:
    return (
        f'<tr><th scope="row">{escaped(str(row.get("layer", "?")))}</th><td><div class="bar">'
        f'<i class="was" style="width:{whole:.2f}%"></i><i style="width:{part:.2f}%"></i></div></td>'
        f"<td>{escaped(text)}</td></tr>"
    )


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _is_percent(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value <= 100
