"""A plan and what it costs, as a table on the terminal."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from mcomp.engine.units import bytes_text, cost_text, count_text, seconds_text
from mcomp.report.table import print_table, title_of


def print_outlook(found: dict[str, Any]) -> None:
    """The screen of ``mcomp plan``; columns of which nothing is known are left out.

    Args:
        found: what :meth:`mcomp.engine.forecast_costs.Outlook.as_dict` gives.
    """
    stages = found["stages"]
    columns: list[tuple[str, Callable[[dict[str, Any]], str]]] = [
        ("stage", lambda stage: str(stage["id"])),
        ("status", lambda stage: str(stage["status"])),
        ("params", lambda stage: cost_text(stage["params"], count_text)),
        ("MACs", lambda stage: cost_text(stage["macs"], count_text)),
    ]
    optional: list[tuple[str, str, Callable[[Any], str]]] = [
        ("output", "shape", lambda shape: "–" if shape is None else " x ".join(map(str, shape))),
        ("seconds", "seconds", lambda cost: cost_text(cost, seconds_text)),
        ("CPU seconds", "cpu_seconds", lambda cost: cost_text(cost, seconds_text)),
        ("memory", "memory_bytes", lambda cost: cost_text(cost, bytes_text)),
    ]
    for title, name, text in optional:
        if any(stage[name] is not None for stage in stages):
            columns.append((title, lambda stage, name=name, text=text: text(stage[name])))  # type: ignore[misc]
    columns.append(("why", lambda stage: str(stage["reason"])))
    body = [tuple(text(stage) for _, text in columns) for stage in stages]
    print_table(title_of(found), tuple(name for name, _ in columns), body)
    print_table("in all", ("what", "how much"), _totals(found))


def _totals(found: dict[str, Any]) -> list[tuple[str, str]]:
    disk = found["disk"]
    needed = "not known" if disk["needed_bytes"] is None else f"up to {bytes_text(disk['needed_bytes'])}"
    rows = [("disk", f"{needed}, {bytes_text(disk['free_bytes'])} free")]
    for name, title, text in (
        ("seconds", "seconds", seconds_text),
        ("cpu_seconds", "CPU seconds", seconds_text),
        ("memory_bytes", "peak memory", bytes_text),
    ):
        if found[name] is not None:
            rows.append((title, cost_text(found[name], text)))
    present = [name for name, one in found["backends"].items() if one["present"]]
    absent = [f"{name} ({one['why_absent']})" for name, one in found["backends"].items() if not one["present"]]
    rows.append(("backends here", ", ".join(present) or "none"))
    if absent:
        rows.append(("absent", "; ".join(absent)))
    return rows
