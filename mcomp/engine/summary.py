"""A run as rows of text: for the terminal, for notebooks, for whoever prints it. No torch."""

from __future__ import annotations

import json
from typing import Any

from mcomp.engine.units import count_text, latency_text, size_text, top1_text
from mcomp.errors import visible

COLUMNS = ("stage", "top-1 %", "params", "MACs", "bytes", "latency", "status")


def rows(result: dict[str, Any]) -> list[tuple[str, ...]]:
    """One row of texts per stage, in the order of :data:`COLUMNS`."""
    found: list[tuple[str, ...]] = []
    for stage in result["stages"]:
        metrics = stage["metrics"]
        status = stage.get("outcome", stage["status"])  # runs of older stores have no outcome
        if status in ("run", "resumed"):
            status = f"{status} {stage['seconds']:.1f} s"
        if any(not gate["passed"] for gate in stage["gates"]):
            status = "gate failed"
        found.append(
            (
                visible(stage["id"]),
                top1_text(metrics.get("top1")),
                count_text(metrics.get("params")),
                _macs_text(metrics),
                size_text(metrics),
                latency_text(metrics),
                status,
            )
        )
    return found


def scales_differ(result: dict[str, Any]) -> str:
    """That the rows of a table were not measured by one scale, in a sentence; empty where they were."""
    stages = [stage for stage in result["stages"] if stage["metrics"]]
    places: dict[str, list[str]] = {}
    for stage in stages:
        if backend := stage["metrics"].get("latency_backend"):
            places.setdefault(str(backend), []).append(str(stage["id"]))
    parts = []
    if len(places) > 1:
        named = "; ".join(f"{backend} in {', '.join(found)}" for backend, found in places.items())
        parts.append(f"latencies are of different runtimes and are no one scale ({named})")
    if len({bool(stage["metrics"].get("bytes_of")) for stage in stages}) > 1:
        parts.append("bytes are of the saved model, but of deployed files where a cell says so")
    return "; ".join(parts) + ("; `mcomp bench` times one beside the other" if len(places) > 1 else "")


def _macs_text(metrics: dict[str, Any]) -> str:
    """``287 k``; where weights were set to zero also what is left of them: ``287 k (144 k effective)``."""
    text = count_text(metrics.get("macs"))
    return f"{text} ({count_text(metrics['effective_macs'])} effective)" if "effective_macs" in metrics else text


def remarks(result: dict[str, Any]) -> list[str]:
    """Gates, notes and deployed files, one line each."""
    lines = [f"note: {told}"] if (told := scales_differ(result)) else []
    for stage in result["stages"]:
        for gate in stage["gates"]:
            lines.append(f"{stage['id']}: gate {verdict_text(gate)}")
        lines += [f"{stage['id']}: {note}" for note in stage["notes"]]
        lines += [f"{stage['id']}: {name}: {path}" for name, path in stage["files"].items()]
    return [visible(line) for line in lines]


def verdict_text(gate: dict[str, Any]) -> str:
    """``held: `` or ``FAILED: ``, and :func:`gate_text`."""
    return f"{'held' if gate['passed'] else 'FAILED'}: {gate_text(gate)}"


def gate_text(gate: dict[str, Any]) -> str:
    """``top1 max_drop vs finetune: 0.31 points (limit 1)``."""
    against = f" vs {gate['vs']}" if gate["vs"] else ""
    unit = f" {gate['unit']}" if gate["unit"] else ""
    value = gate["value"]
    shown = f"{value:.6g}" if isinstance(value, int | float) else str(value)  # NaN is a text once it was stored
    return f"{gate['metric']} {gate['rule']}{against}: {shown}{unit} (limit {gate['limit']:g})"


def figures_text(metrics: dict[str, Any]) -> str:
    """The figures worth a line: ``top-1 98.61 %, 612 k params, 0.61 MB``; those that are no numbers are left out."""
    parts = []
    for name, text, form in (
        ("top1", top1_text(metrics.get("top1")), "top-1 {} %"),
        ("params", count_text(metrics.get("params")), "{} params"),
        ("bytes", size_text(metrics), "{}"),
    ):
        if isinstance(metrics.get(name), int | float):
            parts.append(form.format(text))
    return ", ".join(parts)


def sweep_rows(result: dict[str, Any]) -> list[tuple[str, ...]]:
    """One row of texts per run of a sweep, in the order of :func:`sweep_columns`; figures are its last stage's."""
    return [(*_point(run["sweep"]), *_final(run)) for run in result["runs"]]


def sweep_columns(result: dict[str, Any]) -> tuple[str, ...]:
    """The swept paths, short where that is clear, and what is compared."""
    paths = list(result["runs"][0]["sweep"]) if result["runs"] else []
    short = [path.rpartition(".")[2] for path in paths]
    names = [name if short.count(name) == 1 else path for name, path in zip(short, paths, strict=True)]
    return (*map(visible, names), *COLUMNS)


def sweep_remarks(result: dict[str, Any]) -> list[str]:
    """What went wrong in which run, and which runs are missing, one line each."""
    lines = []
    for number, run in enumerate(result["runs"], 1):
        failed = [(stage, gate) for stage in run["stages"] for gate in stage["gates"] if not gate["passed"]]
        lines += [f"run {number}: {stage['id']}: gate {verdict_text(gate)}" for stage, gate in failed]
        lines += [f"run {number}: {error['message']}" for error in run.get("errors", [])]
    missing = result["points"] - len(result["runs"])
    if missing:
        lines.append(f"{missing} of {result['points']} runs were not begun")
    return [visible(line) for line in lines]


def point_text(values: dict[str, Any]) -> str:
    """What a sweep set for one run: ``vars.ratio=0.5, stages.quantize.w_bits=4``."""
    return ", ".join(f"{path}={_plain(value)}" for path, value in values.items())


def _point(values: dict[str, Any]) -> tuple[str, ...]:
    return tuple(visible(_plain(value)) for value in values.values())


def _plain(value: Any) -> str:
    return json.dumps(value) if isinstance(value, dict | list | bool) or value is None else str(value)


def _final(run: dict[str, Any]) -> tuple[str, ...]:
    """The row of the last stage that has figures, with the status of the whole run."""
    finished = [row for row, stage in zip(rows(run), run["stages"], strict=True) if stage["artifact"]]
    status = run["status"].replace("_", " ")
    return (*finished[-1][:6], status) if finished else (*("–",) * 6, status)
