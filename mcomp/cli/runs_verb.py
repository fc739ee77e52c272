"""``mcomp runs``."""

from __future__ import annotations

import argparse
import os
from typing import TYPE_CHECKING, Any

from mcomp.cli.common import add_json, add_store, existing_store, open_store, print_json, say

if TYPE_CHECKING:
    from mcomp.store import RunRecord

EPILOG = "examples:\n  mcomp runs\n  mcomp runs --json"


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    add_store(parser)
    add_json(parser)


def run(arguments: argparse.Namespace) -> int:
    """List the store's runs, newest first."""
    root = open_store(arguments).root
    wanted = arguments.store or os.environ.get("MCOMP_STORE") or root.exists()
    if not wanted and not arguments.json:
        say(f"nothing was run here yet: there is no store `{root}`")
        return 0
    records = existing_store(arguments).runs() if wanted else []
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
        body.append(
            (
                record.id,
                str(facts["status"]),
                top1_text(facts["top1"]),
                "–" if seconds is None else f"{seconds:.1f}",
                point_text(facts["sweep"]) or "–",
            )
        )
    columns = ("run", "status", "top-1 %", "seconds", "sweep")
    swept = any(row[-1] != "–" for row in body)
    width = len(columns) if swept else len(columns) - 1
    print_table("runs", columns[:width], [row[:width] for row in body])
    return 0


def _facts(record: RunRecord) -> dict[str, Any]:
    tops = [stage["metrics"]["top1"] for stage in record.stages if "top1" in stage["metrics"]]
    return {
        "name": record.name,
        "status": record.result["status"] if record.result else "unfinished",
        "seconds": record.result["seconds"] if record.result else None,
        "top1": tops[-1] if tops else None,
        "sweep": record.sweep,
    }
