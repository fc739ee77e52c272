"""A run as one HTML page: no script, no font, no picture from elsewhere."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from mcomp import __version__
from mcomp.engine.display import escaped
from mcomp.engine.summary import COLUMNS, gate_text, point_text, rows, scales_differ
from mcomp.errors import plural
from mcomp.report.before_after import before_after_html, is_number
from mcomp.report.histograms import QUANTITIES, histogram_rows, histogram_svg
from mcomp.report.layer_bars import layer_bars
from mcomp.report.page_style import STYLE
from mcomp.report.quantized_layers import quantized_layers_html

Outcome = dict[str, Any]

#: Columns whose figures only make sense beside the largest of the run.
_MEASURED = {"params": "params", "MACs": "macs", "bytes": "bytes"}
_TONES = {"ok": "good", "failed": "bad", "gate_failed": "bad", "refused": "bad"}
# what the browser is told beside: should a text ever come through as markup, it can still load and run nothing
_POLICY = "default-src 'none'; style-src 'unsafe-inline'"


def report_page(result: dict[str, Any], details: Mapping[str, Mapping[str, Any]]) -> str:
    """The page of one run: before and after, its stages, gates and notes, and a drawing of what has one.

    Args:
        result: what :meth:`mcomp.engine.results.RunResult.as_dict` gives, or a run's ``result.json``, also of one that
            failed; or what :func:`mcomp.store.run_events.result_so_far` makes of one that never finished.
        details: stage id to the details that its record in the store holds; stages without any may be missing.
    """
    name = escaped(str(result["name"]))
    body = [
        _header(result),
        before_after_html(result, details),
        _failures(result),
        _stages(result),
        _gates(result["stages"]),
        *(layer_bars(stage["id"], details.get(stage["id"], {})) for stage in result["stages"]),
        *(quantized_layers_html(stage["id"], details.get(stage["id"], {})) for stage in result["stages"]),
        *(_drawing(stage["id"], details.get(stage["id"], {})) for stage in result["stages"]),
        _notes(result["stages"]),
        _files(result["stages"]),
        f"<footer>run {escaped(str(result.get('run') or 'without a record'))}, mcomp {escaped(__version__)}</footer>",
    ]
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{name}</title><style>{STYLE}</style></head>\n<body>\n{''.join(body)}</body></html>\n"
    )


def _header(result: dict[str, Any]) -> str:
    status = str(result["status"])
    badge = f'<span class="badge {_TONES.get(status, "warn")}">{escaped(status.replace("_", " "))}</span>'
    stages = result["stages"]
    cached = sum(stage["status"] == "hit" for stage in stages)
    facts = [
        point_text(result.get("sweep") or {}),
        plural(len(stages), "stage") + (f", {cached} from the cache" if cached else ""),
        f"{result['seconds']:.1f} s",
    ]
    said = " · ".join(escaped(fact) for fact in facts if fact)
    return f"<header><h1>{escaped(str(result['name']))} {badge}</h1><p>{said}</p></header>\n"


def _failures(result: dict[str, Any]) -> str:
    errors = [error for error in result.get("errors") or [] if isinstance(error, dict)]
    return "".join(
        f'<div class="failure"><p class="bad">{escaped(str(error.get("code", "")))}: '
        f"{_prose(str(error.get('message', '')))}</p><p>{_prose(str(error.get('hint') or ''))}</p></div>"
        for error in errors
    )


def _stages(result: dict[str, Any]) -> str:
    stages = result["stages"]
    largest = {
        metric: max(
            (stage["metrics"][metric] for stage in stages if is_number(stage["metrics"].get(metric))), default=0
        )
        for metric in _MEASURED.values()
    }
    head = "".join(f'<th scope="col">{escaped(column)}</th>' for column in COLUMNS)
    body = []
    for stage, texts in zip(stages, rows(result), strict=True):
        cells = [f'<th scope="row">{escaped(texts[0])}</th>']
        for column, text in zip(COLUMNS[1:], texts[1:], strict=True):
            metric = _MEASURED.get(column, "")
            cells.append(f"<td>{escaped(text)}{_meter(stage['metrics'].get(metric), largest.get(metric, 0))}</td>")
        body.append(f"<tr>{''.join(cells)}</tr>")
    told = scales_differ(result)
    legend = f'<p class="legend">{_prose(told)}</p>' if told else ""
    return (
        '<section><h2>Stages</h2><div class="scroll"><table>'
        f"<thead><tr>{head}</tr></thead><tbody>{''.join(body)}</tbody></table></div>{legend}</section>\n"
    )


def _meter(value: Any, largest: float) -> str:
    if not is_number(value) or largest <= 0:
        return ""
    return f'<div class="meter"><i style="width:{100 * max(value, 0) / largest:.1f}%"></i></div>'


def _gates(stages: list[Outcome]) -> str:
    body = [
        f'<tr><td>{escaped(stage["id"])}</td><td>{_prose(gate_text(gate))}</td><td><span class="badge '
        f'{"good" if gate["passed"] else "bad"}">{"held" if gate["passed"] else "FAILED"}</span></td></tr>'
        for stage in stages
        for gate in stage["gates"]
    ]
    if not body:
        return ""
    return f'<section><h2>Gates</h2><table class="words"><tbody>{"".join(body)}</tbody></table></section>\n'


def _notes(stages: list[Outcome]) -> str:
    parts = [
        f"<h3>{escaped(stage['id'])}</h3><ul>{''.join(f'<li>{_prose(note)}</li>' for note in stage['notes'])}</ul>"
        for stage in stages
        if stage["notes"]
    ]
    return f"<section><h2>Left whole, and other notes</h2>{''.join(parts)}</section>\n" if parts else ""


def _files(stages: list[Outcome]) -> str:
    lines = [
        f"<li>{escaped(stage['id'])}: <code>{escaped(path)}</code></li>"
        for stage in stages
        for path in stage["files"].values()
    ]
    return f"<section><h2>Files</h2><ul>{''.join(lines)}</ul></section>\n" if lines else ""


def _drawing(stage: str, details: Mapping[str, Any]) -> str:
    """The section of a stage that trained sparsely; empty where there is nothing to draw."""
    history = details.get("history")
    found = [row for row in history if isinstance(row, dict)] if isinstance(history, list) else []
    quantity, _ = histogram_rows(found)
    if not quantity:
        return ""
    title = f"{stage}: {QUANTITIES[quantity]} per epoch"
    return f"<section><h2>{escaped(title)}</h2>{histogram_svg(found, title)}</section>\n"


def _prose(text: str) -> str:
    """A sentence of ours, its `names` set as code."""
    return re.sub(r"`([^`]*)`", r"<code>\1</code>", escaped(text))
