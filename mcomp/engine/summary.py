"""A run as rows of text: for the terminal, for notebooks, for whoever prints it. No torch."""

from __future__ import annotations

from html import escape
from typing import Any

from mcomp.engine.units import bytes_text, count_text, latency_text, top1_text
from mcomp.recipe.diagnostics import visible

COLUMNS = ("stage", "top-1 %", "params", "MACs", "bytes", "latency", "status")


def rows(result: dict[str, Any]) -> list[tuple[str, ...]]:
    """One row of texts per stage, in the order of :data:`COLUMNS`."""
    found: list[tuple[str, ...]] = []
    for stage in result["stages"]:
        metrics = stage["metrics"]
        status = stage["status"]
        if status in ("run", "resumed"):
            status = f"{status} {stage['seconds']:.1f} s"
        if any(not gate["passed"] for gate in stage["gates"]):
            status = "gate failed"
        found.append(
            (
                visible(stage["id"]),
                top1_text(metrics.get("top1")),
                count_text(metrics.get("params")),
                count_text(metrics.get("macs")),
                bytes_text(metrics.get("bytes")),
                latency_text(metrics),
                status,
            )
        )
    return found


def remarks(result: dict[str, Any]) -> list[str]:
    """Gates, notes and deployed files, one line each."""
    lines = []
    for stage in result["stages"]:
        for gate in stage["gates"]:
            lines.append(f"{stage['id']}: gate {'held' if gate['passed'] else 'FAILED'}: {gate_text(gate)}")
        lines += [f"{stage['id']}: {note}" for note in stage["notes"]]
        lines += [f"{stage['id']}: {name}: {path}" for name, path in stage["files"].items()]
    return [visible(line) for line in lines]


def gate_text(gate: dict[str, Any]) -> str:
    """``top1 max_drop vs finetune: 0.31 points (limit 1)``."""
    against = f" vs {gate['vs']}" if gate["vs"] else ""
    unit = f" {gate['unit']}" if gate["unit"] else ""
    return f"{gate['metric']} {gate['rule']}{against}: {gate['value']:.6g}{unit} (limit {gate['limit']:g})"


def result_html(result: dict[str, Any]) -> str:
    """A ``<table>`` of :func:`rows`; every text escaped."""
    head = "".join(f"<th>{escape(column)}</th>" for column in COLUMNS)
    body = "".join("<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>" for row in rows(result))
    return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"
