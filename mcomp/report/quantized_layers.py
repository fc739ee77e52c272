"""What quantisation did to each layer: bars of its noise, and each tensor's values before and after on its grid."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise
from typing import Any

from mcomp.engine.display import escaped
from mcomp.errors import plural

#: A bar is full at this ratio: 8 bits give about 40 to 50 dB.
_FULL_DB = 60.0
#: A page with more drawings than that is no help.
_MOST_DRAWINGS = 80
_WIDTH, _HEIGHT, _LEFT, _BASE = 420, 104, 8, 84
_BEFORE = 'fill="#8a97a8" fill-opacity=".55"'
_AFTER = 'fill="none" stroke="#2f6fc4" stroke-width="1.4"'


def quantized_layers_html(stage: str, details: Mapping[str, Any]) -> str:
    """The section of a stage whose details hold ``layer_report`` (and ``sensitivity``); empty where they hold none.

    Args:
        stage: its id.
        details: ``layer_report`` as :meth:`mcomp.quantization.LayerReport.as_dict` gives it, ``sensitivity`` as
            :meth:`mcomp.quantization.Sensitivity.as_dict`.
    """
    report = details.get("layer_report")
    if not isinstance(report, Mapping):
        return ""
    tensors = [row for row in report.get("tensors") or [] if isinstance(row, Mapping)]
    outputs = [row for row in report.get("outputs") or [] if isinstance(row, Mapping)]
    parts = [
        f"<section><h2>{escaped(stage)}: noise of quantisation</h2>",
        f"<p>signal to noise of each layer’s output against the same network unquantised, on "
        f"{plural(int(report.get('samples') or 0), 'training image')}; the longer, the closer to float</p>",
        _bars([(str(row.get("name")), row.get("sqnr_db")) for row in outputs]),
        _alone(details.get("sensitivity")),
        _tensors(tensors),
        "</section>\n",
    ]
    return "".join(parts) if tensors or outputs else ""


def grid_svg(histogram: Mapping[str, Any], title: str) -> str:
    """Percent of values per bin before (filled) and after (outlined), with a line at each level of a coarse grid.

    Heights grow with the square root, for the bin at zero dwarfs all others. Empty for a histogram that is none.
    """
    before, after = (_shares(histogram.get(key)) for key in ("before", "after"))
    low, high = (_number(histogram.get(key), 0.0) for key in ("low", "high"))
    if not before or len(before) != len(after) or not low < high:
        return ""
    top = max(*before, *after) or 1.0
    levels = [level for level in histogram.get("levels") or [] if _is_number(level) and low <= level <= high]
    unit = " steps" if histogram.get("unit") == "step" else ""
    parts = [
        f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" width="{_WIDTH}" height="{_HEIGHT}" role="img">',
        f"<title>{escaped(title)}</title>",
        *(
            f'<line class="level" x1="{x:.1f}" y1="4" x2="{x:.1f}" y2="{_BASE}" stroke-opacity=".35"/>'
            for x in (_x(level, low, high) for level in levels)
        ),
        f'<path {_BEFORE} d="{_outline(before, top)}"/><path {_AFTER} d="{_outline(after, top)}"/>',
        f'<line x1="{_LEFT}" y1="{_BASE}" x2="{_WIDTH - _LEFT}" y2="{_BASE}"/>',
        *(
            f'<text x="{_x(value, low, high):.1f}" y="{_BASE + 14}" text-anchor="{anchor}">{value:.3g}{unit}</text>'
            for value, anchor in ((low, "start"), ((low + high) / 2, "middle"), (high, "end"))
        ),
        "</svg>",
    ]
    return "".join(parts)


def _bars(rows: list[tuple[str, Any]]) -> str:
    body = [
        f'<tr><th scope="row">{escaped(name)}</th><td><div class="bar"><i style="width:{_share(value):.1f}%"></i></div>'
        f"</td><td>{_db(value)}</td></tr>"
        for name, value in rows
    ]
    return f'<table class="bars"><tbody>{"".join(body)}</tbody></table>' if body else ""


def _alone(sensitivity: Any) -> str:
    """The table of layers quantised one at a time, the one that costs most first."""
    if not isinstance(sensitivity, Mapping):
        return ""
    layers = [row for row in sensitivity.get("layers") or [] if isinstance(row, Mapping)]
    layers.sort(key=lambda row: (-_number(row.get("drop"), 0.0), _number(row.get("sqnr_db"), _FULL_DB)))
    body = [
        f'<tr><th scope="row">{escaped(str(row.get("name")))}</th><td>{_bits(row.get("w_bits"))}</td>'
        f"<td>{_bits(row.get('a_bits'))}</td><td>{_db(row.get('sqnr_db'))}</td><td>{_percent(row.get('top1'))}</td>"
        f"<td>{_percent(row.get('drop'), '')}</td></tr>"
        for row in layers
    ]
    if not body:
        return ""
    none, every = (_percent(sensitivity.get(key)) for key in ("float_top1", "quantized_top1"))
    head = ("layer", "weight bits", "input bits", "output SQNR", "top-1", "points lost")
    return (
        f"<h3>Quantised alone</h3><p>validation accuracy with this layer only; {none} in float, {every} with all</p>"
        f'<div class="scroll"><table><thead><tr>{"".join(f"<th>{each}</th>" for each in head)}</tr></thead>'
        f"<tbody>{''.join(body)}</tbody></table></div>"
    )


def _tensors(rows: list[Mapping[str, Any]]) -> str:
    if not rows:
        return ""
    left = f"; the first {_MOST_DRAWINGS} of {len(rows)} tensors are drawn" if len(rows) > _MOST_DRAWINGS else ""
    parts = [
        "<h3>Values on their grids</h3>",
        f"<p>grey before, blue after quantisation, a line per level of a coarse grid; "
        f"heights by the square root of the share{left}</p>",
    ]
    for index, row in enumerate(rows):
        name, kind = str(row.get("name")), str(row.get("kind"))
        clipped = row.get("clipped")
        facts = [
            f"{kind}, {row.get('scheme')}, {row.get('bits')} bits",
            _db(row.get("sqnr_db")),
            f"{clipped:.2f} % clipped" if _is_number(clipped) else "",
            f"{_number(row.get('used'), 0.0):.0f} % of the levels in use",
        ]
        histogram = row.get("histogram")
        drawn = index < _MOST_DRAWINGS and isinstance(histogram, Mapping)
        drawing = grid_svg(histogram, f"{name} before and after") if drawn and isinstance(histogram, Mapping) else ""
        said = escaped(" · ".join(fact for fact in facts if fact))
        parts.append(f"<details><summary><code>{escaped(name)}</code> {said}</summary>{drawing}</details>")
    return "".join(parts)


def _outline(shares: list[float], top: float) -> str:
    """The upper edge of the bars, closed along the base line."""
    step = (_WIDTH - 2 * _LEFT) / len(shares)
    edges = [_LEFT + step * index for index in range(len(shares) + 1)]
    points = [f"M{edges[0]:.1f} {_BASE}"]
    for share, (left, right) in zip(shares, pairwise(edges), strict=True):
        y = _BASE - (_BASE - 6) * (share / top) ** 0.5
        points.append(f"L{left:.1f} {y:.1f}L{right:.1f} {y:.1f}")
    return "".join([*points, f"L{edges[-1]:.1f} {_BASE}Z"])


def _x(value: float, low: float, high: float) -> float:
    return _LEFT + (_WIDTH - 2 * _LEFT) * (value - low) / (high - low)


def _shares(values: Any) -> list[float]:
    sound = isinstance(values, list) and all(_is_number(value) and value >= 0 for value in values)
    return list(values) if sound else []


def _share(value: Any) -> float:
    return 100 * min(max(_number(value, _FULL_DB), 0.0), _FULL_DB) / _FULL_DB


def _db(value: Any) -> str:
    return f"{value:.1f} dB" if _is_number(value) else "no noise"


def _bits(value: Any) -> str:
    return "float" if value == 32 else escaped(str(value))


def _percent(value: Any, unit: str = " %") -> str:
    return f"{value:.2f}{unit}" if _is_number(value) else "–"


def _number(value: Any, default: float) -> float:
    return float(value) if _is_number(value) else default


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
