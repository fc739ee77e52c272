"""Claim: `mcomp plan --probe` tells what a run will hold and take before it starts.

Plans a recipe with ``--shapes --probe`` against an empty store, applies it there, and compares: parameters and MACs of
every stage exact or inside the range, peak memory and CPU seconds against the middle of their ranges. CPU seconds are
those of all threads; memory is the largest resident set of the process that applied.

    python benchmarks/plan_accuracy.py [--recipe recipes/nin_gc_prune_quant.yaml] [--set PATH=VALUE …]
                                       [--out benchmarks/results/plan_accuracy.json]

``--out`` holds one object per recipe, under its name; those of other recipes stay as they are.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
from importlib import metadata
from pathlib import Path
from typing import Any

RECIPE = "recipes/nin_gc_prune_quant.yaml"
CPU_LIMIT, MEMORY_LIMIT = 0.30, 0.25


def mcomp(*words: str) -> tuple[dict[str, Any], float, int]:
    """The ``--json`` object of one command, and its process's CPU seconds and peak bytes."""
    command = [sys.executable, "-m", "mcomp", *words, "--json"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    assert process.stdout is not None
    output = process.stdout.read()
    _, status, usage = os.wait4(process.pid, 0)
    found: dict[str, Any] = json.loads(output)
    if os.waitstatus_to_exitcode(status):
        raise SystemExit(f"{' '.join(command)} failed: {found.get('errors')}")
    return found, usage.ru_utime + usage.ru_stime, usage.ru_maxrss * 1024


def span(cost: Any) -> tuple[float, float]:
    return (cost[0], cost[1]) if isinstance(cost, list) else (cost, cost)


def off(cost: Any, measured: float) -> float:
    """How far the middle of the range lies from what was measured, as a share of it."""
    low, high = span(cost)
    return (low + high) / 2 / measured - 1


def record_of(store: str, key: str) -> dict[str, Any]:
    record: dict[str, Any] = json.loads((Path(store) / "actions" / key[:2] / f"{key}.json").read_text())["record"]
    return record


def compared(planned: dict[str, Any], applied: dict[str, Any], store: str) -> list[dict[str, Any]]:
    rows = []
    for before, after in zip(planned["stages"], applied["stages"], strict=True):
        record = record_of(store, after["key"])
        row: dict[str, Any] = {"id": before["id"], "cpu_s": [before["cpu_seconds"], record["cpu_seconds"]]}
        row["cpu_off"] = round(off(before["cpu_seconds"], record["cpu_seconds"]), 3)
        row["memory_bytes"] = [before["memory_bytes"], record["peak_memory_bytes"]]
        row["memory_off"] = round(off(before["memory_bytes"], record["peak_memory_bytes"]), 3)
        for figure in ("params", "macs"):
            low, high = span(before[figure])
            found = after["metrics"][figure]
            row[figure] = [before[figure], found]
            row[f"{figure}_right"] = low <= found <= high
        rows.append(row)
    return rows


def merge(out: Path, name: str, result: dict[str, Any]) -> None:
    """Put the result of one recipe beside those of the others."""
    found: dict[str, Any] = json.loads(out.read_text()) if out.exists() else {}
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps({**found, name: result}, indent=2) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--recipe", default=RECIPE)
    parser.add_argument("--set", dest="sets", action="append", default=[])
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    words = [arguments.recipe, *(word for text in arguments.sets for word in ("--set", text))]
    with tempfile.TemporaryDirectory() as folder:
        store = str(Path(folder) / "store")
        planned, plan_cpu, _ = mcomp("plan", *words, "--store", store, "--shapes", "--probe")
        applied, cpu, peak = mcomp("apply", *words, "--store", store)
        rows = compared(planned, applied, store)
    for row in rows:
        cpu_text = f"CPU {row['cpu_off']:+.0%} ({row['cpu_s'][0]} s, took {row['cpu_s'][1]})"
        right = all(row[f"{figure}_right"] for figure in ("params", "macs"))
        print(f"{row['id']:<14} {cpu_text:<48} memory {row['memory_off']:+.0%}   ", end="")
        print(f"params {row['params'][0]} is {row['params'][1]}: {'right' if right else 'WRONG'}")
    cpu_off, memory_off = off(planned["cpu_seconds"], cpu), off(planned["memory_bytes"], peak)
    result = {
        "recipe": arguments.recipe,
        "sets": arguments.sets,
        "cpu_seconds": {"planned": planned["cpu_seconds"], "measured": round(cpu, 2), "off": round(cpu_off, 3)},
        "memory_bytes": {"planned": planned["memory_bytes"], "measured": peak, "off": round(memory_off, 3)},
        "counts_right": all(row["params_right"] and row["macs_right"] for row in rows),
        "plan_cpu_seconds": round(plan_cpu, 2),
        "stages": rows,
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
        "threads": os.environ.get("OMP_NUM_THREADS", "all"),
        "torch": metadata.version("torch"),
        "python": platform.python_version(),
    }
    print(f"in all: CPU seconds {planned['cpu_seconds']} planned, {cpu:.1f} taken ({cpu_off:+.1%}, limit 30 %);")
    print(f"  peak memory {planned['memory_bytes']} planned, {peak} reached ({memory_off:+.1%}, limit 25 %);")
    print(f"  params and MACs {'all right' if result['counts_right'] else 'WRONG'}; the plan took {plan_cpu:.1f} CPU s")
    if arguments.out:
        merge(arguments.out, applied["name"], result)
    if abs(cpu_off) > CPU_LIMIT or abs(memory_off) > MEMORY_LIMIT or not result["counts_right"]:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
