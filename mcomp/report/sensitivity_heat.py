"""What each layer alone costs at each value, as coloured tables: a heat map that can be read without its colours."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from mcomp.engine.display import escaped
from mcomp.errors import plural
from mcomp.report.before_after import is_number

Row = tuple[str, str, float, float, float]
"""Kind, layer, value, rise of the loss, points lost."""

_TITLES = {
    "w_bits": ("Weights at few bits", "bits"),
    "a_bits": ("Inputs at few bits", "bits"),
    "keep": ("Channels cut away", "of the channels"),
}
#: Rises below this share of the largest are all but uncoloured: the scale is linear there, logarithmic above.
_LINEAR = 1e-3
#: Nats that have full ink at the least: a map of chance alone stays pale.
_LEAST_TOP = 0.01
_MOST_INK = 60  # percent: the number in a cell stays legible
_STEPS = (0.0, 0.25, 0.5, 0.75, 1.0)


def sensitivity_heat(stage: str, details: Mapping[str, Any]) -> str:
    """The section of a stage that measured each layer alone; empty where its details hold no such map.

    Args:
        stage: its id.
        details: ``sensitivity_map``, as :meth:`mcomp.search.sensitivity_map.SensitivityMap.as_dict` gives it.
    """
    held = details.get("sensitivity_map")
    if not isinstance(held, Mapping):
        return ""
    rows = [(*row,) for row in held.get("rows") or [] if _is_row(row)]
    if not rows:
        return ""
    top = max(_LEAST_TOP, *(rise for *_, rise, _ in rows))
    blocks = (_block(kind, [row for row in rows if row[0] == kind], top) for kind in _TITLES)
    told = f"{_base(held)}; a cell holds the rise of the loss in nats, and beside it the change of top-1 in points"
    return (
        f"<section><h2>{escaped(stage)}: what each layer alone costs</h2><p>{told}</p>"
        f"{_legend(top)}{''.join(blocks)}</section>\n"
    )


def shade(rise: float, top: float) -> float:
    """How much ink a rise gets, from 0 to 1: log-like, so that three decades below the largest can be told apart."""
    if rise <= 0:
        return 0.0
    return min(1.0, math.log1p(rise / top / _LINEAR) / math.log1p(1 / _LINEAR))


def _rise_at(share: float, top: float) -> float:
    """The rise that has this much ink."""
    return _LINEAR * top * math.expm1(share * math.log1p(1 / _LINEAR))


def _base(held: Mapping[str, Any]) -> str:
    known = all(is_number(held.get(key)) for key in ("base_loss", "base_top1"))
    base = (
        f"untouched, the loss is {held['base_loss']:.4g} and top-1 {held['base_top1']:.2f} %" if known else "measured"
    )
    images = held.get("images")
    return f"{base} on {plural(images, 'validation image')}" if isinstance(images, int) and images > 0 else base


def _legend(top: float) -> str:
    cells = "".join(f"<td{_ink(share)}>{_rise_at(share, top):+.2g}</td>" for share in _STEPS)
    return (
        '<table class="heat"><caption>colour by rise of the loss, roughly logarithmic</caption>'
        f"<tbody><tr>{cells}</tr></tbody></table>"
    )


def _block(kind: str, rows: Sequence[Row], top: float) -> str:
    """One table: layers in the order that they are given, values from the gentlest to the harshest."""
    if not rows:
        return ""
    title, unit = _TITLES[kind]
    values = sorted({value for _, _, value, _, _ in rows}, reverse=True)
    found = {(layer, value): (rise, drop) for _, layer, value, rise, drop in rows}
    heads = "".join(f'<th scope="col">{_value(kind, value)}</th>' for value in values)
    body = "".join(
        f'<tr><th scope="row">{escaped(layer)}</th>'
        + "".join(_cell(f"{layer}, {_value(kind, value)} {unit}", found.get((layer, value)), top) for value in values)
        + "</tr>"
        for layer in dict.fromkeys(layer for _, layer, *_ in rows)
    )
    return (
        f'<h3>{title}</h3><div class="scroll"><table class="heat"><thead><tr><th scope="col">layer</th>{heads}</tr>'
        f"</thead><tbody>{body}</tbody></table></div>"
    )


def _cell(where: str, seen: tuple[float, float] | None, top: float) -> str:
    if seen is None:
        return "<td>–</td>"
    rise, drop = seen
    said = f"{where}: loss {rise:+.3g}, top-1 {0.0 - drop:+.2f} points"
    return f'<td{_ink(shade(rise, top))} title="{escaped(said)}">{rise:+.3f} <small>{0.0 - drop:+.1f}</small></td>'


def _ink(share: float) -> str:
    percent = round(_MOST_INK * share)
    return f' style="background:color-mix(in srgb,var(--bad) {percent}%,transparent)"' if percent else ""


def _value(kind: str, value: float) -> str:
    return f"{100 * value:g} %" if kind == "keep" else f"{value:g}"


def _is_row(row: Any) -> bool:
    return (
        isinstance(row, list | tuple)
        and len(row) == 5
        and row[0] in _TITLES
        and isinstance(row[1], str)
        and all(is_number(figure) for figure in row[2:])
    )
