"""What a run wrote while it went on: of one that was killed, or is under way, that is all there is."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

from mcomp.store.digest import parse_json
from mcomp.store.runs import outcome_fault

EVENTS = "events.jsonl"

Event = dict[str, Any]


def events_of(folder: Path) -> Iterator[Event]:
    """The events of the run in ``folder``, in order; what is no event, or half of one, is passed over."""
    try:
        lines = (folder / EVENTS).read_bytes().splitlines()
    except OSError:
        return
    for line in lines:
        with suppress(ValueError):  # the last line may be half written
            event = parse_json(line)
            if isinstance(event, dict):
                yield event


def result_so_far(folder: Path) -> dict[str, Any] | None:
    """What the run in ``folder`` has done by now, as its ``result.json`` would have it; None where that cannot be told.

    Its status is ``unfinished``, and so is the outcome of the stage that it was last heard from.
    """
    events = list(events_of(folder))
    begun = next((event for event in events if event.get("event") == "run_started"), None)
    if begun is None or not isinstance(begun.get("name"), str) or not isinstance(begun.get("plan"), list):
        return None
    stages = {stage["id"]: stage for stage in map(_waiting, begun["plan"]) if not outcome_fault(stage)}
    for event in events:
        outcome, stage = event.get("outcome"), stages.get(str(event.get("stage")))
        if event.get("event") == "stage_started" and stage is not None:
            stage["outcome"] = "unfinished"
        elif event.get("event") == "stage_finished" and stage is not None and not outcome_fault(outcome):
            stages[stage["id"]] = dict(outcome or {})
    times = [event["time"] for event in events if isinstance(event.get("time"), int | float)]
    sweep = begun.get("sweep")
    return {
        "run": folder.name,
        "name": begun["name"],
        "sweep": sweep if isinstance(sweep, dict) else {},
        "status": "unfinished",
        "exit_code": None,
        "seconds": round(max(times) - min(times), 3) if times else 0.0,
        "stages": list(stages.values()),
    }


def _waiting(planned: object) -> dict[str, Any]:
    """The outcome of a stage of which a plan is all that is known."""
    known = planned if isinstance(planned, dict) else {}
    return {
        "id": known.get("id"),
        "uses": known.get("uses"),
        "from": None,
        "status": "skipped",
        "outcome": "not run",
        "key": None,
        "artifact": None,
        "seconds": 0.0,
        "metrics": {},
        "files": {},
        "gates": [],
        "notes": [],
    }
