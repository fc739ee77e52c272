"""``mcomp runs``."""

from __future__ import annotations

import argparse

from mcomp.cli.common import add_json, add_store, open_store, print_json

EPILOG = "examples:\n  mcomp runs\n  mcomp runs --json"


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    add_store(parser)
    add_json(parser)


def run(arguments: argparse.Namespace) -> int:
    """List the store's runs, newest first."""
    records = open_store(arguments).runs()
    if arguments.json:
        print_json([{"run": record.id, "path": str(record.path), **_facts(record.result)} for record in records])
        return 0
    from mcomp.engine.summary import point_text
    from mcomp.engine.units import top1_text
    from mcomp.report.table import print_table

    body = []
    for record in records:
        facts = _facts(record.result)
        seconds = facts["seconds"]
        sweep = facts["sweep"]
        assert isinstance(sweep, dict)
        body.append(
            (
                record.id,
                str(facts["status"]),
                top1_text(facts["top1"]),
                "–" if seconds is None else f"{seconds:.1f}",
                point_text(sweep) or "–",
            )
        )
    columns = ("run", "status", "top-1 %", "seconds", "sweep")
    swept = any(row[-1] != "–" for row in body)
    width = len(columns) if swept else len(columns) - 1
    print_table("runs", columns[:width], [row[:width] for row in body])
    return 0


def _facts(result: dict[str, object] | None) -> dict[str, object]:
    if result is None:
        return {"name": None, "status": "unfinished", "seconds": None, "top1": None, "sweep": {}}
    stages = result["stages"]
    assert isinstance(stages, list)
    tops = [stage["metrics"]["top1"] for stage in stages if "top1" in stage["metrics"]]
    return {
        "name": result["name"],
        "status": result["status"],
        "seconds": result["seconds"],
        "top1": tops[-1] if tops else None,
        "sweep": result.get("sweep", {}),
    }
