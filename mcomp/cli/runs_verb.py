"""``mcomp runs``."""

from __future__ import annotations

import argparse
import os
import sys

from mcomp.cli.common import add_json, add_store, existing_store, open_store, print_json
from mcomp.store.runs import RunRecord

EPILOG = "examples:\n  mcomp runs\n  mcomp runs --json"


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    add_store(parser)
    add_json(parser)


def run(arguments: argparse.Namespace) -> int:
    """List the store's runs, newest first."""
    named = arguments.store or os.environ.get("MCOMP_STORE")
    store = open_store(arguments)
    if not named and not arguments.json and not store.root.exists():
        sys.stdout.write(f"nothing was run here yet: there is no store `{store.root}`\n")
        return 0
    records = (existing_store(arguments) if named or store.root.exists() else store).runs()
    if arguments.json:
        print_json([{"run": record.id, "path": str(record.path), **_facts(record)} for record in records])
        return 0
    from mcomp.engine.summary import point_text
    from mcomp.engine.units import top1_text
    from mcomp.report.table import print_table

    body = []
    for record in records:
        facts = _facts(record)
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


def _facts(record: RunRecord) -> dict[str, object]:
    result = record.result
    if result is None:
        return {"name": record.name, "status": "unfinished", "seconds": None, "top1": None, "sweep": {}}
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
