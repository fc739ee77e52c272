"""A run as one HTML page: no script, no font, no picture from elsewhere."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mcomp.engine.display import escaped, run_screen
from mcomp.report.histograms import QUANTITIES, histogram_rows, histogram_svg

_STYLE = """
:root { color-scheme: light dark }
body { font: 15px/1.45 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem }
table { border-collapse: collapse; font-variant-numeric: tabular-nums }
th, td { padding: .25rem .7rem; border-bottom: 1px solid #8885; text-align: right }
th:first-child, td:first-child { text-align: left }
svg { max-width: 100%; height: auto; font: 11px system-ui, sans-serif; fill: currentColor }
svg path { fill: #3a78c2; fill-opacity: .55; stroke: #3a78c2; stroke-width: .6 }
svg line { stroke: currentColor; stroke-width: .6 }
"""


def report_page(result: dict[str, Any], details: Mapping[str, dict[str, Any]]) -> str:
    """The page of one run: its table, its remarks, and a drawing for each stage that trained sparsely.

    Args:
        result: what :meth:`mcomp.engine.results.RunResult.as_dict` gives, or a run's ``result.json``.
        details: stage id to the details that its record in the store holds; stages without any may be missing.
    """
    drawings = [_drawing(stage["id"], details.get(stage["id"], {})) for stage in result["stages"]]
    name = escaped(str(result["name"]))
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width">'
        f"<title>{name}</title><style>{_STYLE}</style></head>\n<body><h1>{name}</h1>\n"
        f"{run_screen(result).html()}\n{''.join(drawings)}</body></html>\n"
    )


def _drawing(stage: str, details: Mapping[str, Any]) -> str:
    """The section of a stage; empty where there is nothing to draw."""
    history = details.get("history")
    rows = [row for row in history if isinstance(row, dict)] if isinstance(history, list) else []
    quantity, _ = histogram_rows(rows)
    if not quantity:
        return ""
    title = f"{stage}: {QUANTITIES[quantity]} per epoch"
    return f"<section><h2>{escaped(title)}</h2>{histogram_svg(rows, title)}</section>\n"
