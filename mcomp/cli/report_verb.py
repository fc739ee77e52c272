"""``mcomp report [RUN] [--html FILE]``."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mcomp.cli.common import add_json, add_store, existing_store, print_json, say, writing_for_a_person
from mcomp.cli.run_choice import chosen_run

if TYPE_CHECKING:
    from mcomp.store import Store

EPILOG = """\
examples:
  mcomp report                            the table of the newest finished run
  mcomp report nin_gc_prune_quant         that of the run whose id holds these letters; `mcomp runs` lists ids
  mcomp report nin_gc_prune_quant --json  what `apply --json` printed
  mcomp report --html run.html            a page to hand round: before and after, every stage, widths, gates, notes

The page is one file that loads nothing from elsewhere. A run that failed, was killed or is still under way is
reported as far as it got; name it, for without RUN the newest finished one is taken."""


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument(
        "wanted",
        nargs="?",
        metavar="RUN",
        help="which run: its id or a part of it, as `mcomp runs` lists them (default: the newest finished one)",
    )
    parser.add_argument("--html", metavar="FILE", type=Path, help="write the run as one self-contained page instead")
    add_store(parser)
    add_json(parser)


def run(arguments: argparse.Namespace) -> int:
    """Print the table of a run, or write its page."""
    store = existing_store(arguments)
    result = chosen_run(store, arguments.wanted, unfinished=True)
    if arguments.html is not None:
        _write_page(arguments.html, store, result)
        say(f"run {result['run']} ({result['status']}) -> {arguments.html}", error=arguments.json)
    if arguments.json:
        print_json(result)
    elif arguments.html is None:
        from mcomp.report.table import print_result

        print_result(result)
    return 0


def _write_page(target: Path, store: Store, result: dict[str, Any]) -> None:
    from mcomp.report.page import report_page
    from mcomp.store import atomic

    page = report_page(result, _details(store, result))
    with writing_for_a_person(target, "MC216"):
        atomic.write_text(target, page)


def _details(store: Store, result: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """The tables of every stage: from the store where it finished, else the epochs that it reported on the way."""
    from mcomp.store.run_events import events_of

    folder = next((record.path for record in store.runs() if record.id == result.get("run")), None)
    found: dict[str, dict[str, Any]] = {stage["id"]: {} for stage in result["stages"]}
    for event in events_of(folder) if folder is not None else ():
        if event.get("event") == "epoch" and event.get("stage") in found:
            found[event["stage"]].setdefault("history", []).append(event)
    for stage in result["stages"]:
        record = store.action(stage["key"]) if stage["key"] and stage["artifact"] else None
        details = record.get("details") if record is not None else None
        if isinstance(details, dict):
            found[stage["id"]] = details
    return found
