"""Find the run that a person means: by id, by a part of it, or the newest."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from mcomp.cli.common import say
from mcomp.errors import UsageError

if TYPE_CHECKING:
    from mcomp.store import RunRecord, Store


def chosen_run(
    store: Store, wanted: str | None, *, ended_well: bool = False, unfinished: bool = False
) -> dict[str, Any]:
    """The result of the run whose id contains ``wanted``; of the newest finished run without one.

    A recipe's whole name means the newest finished run of that recipe, whatever other ids it is a part of.

    Where that is not the newest of all, a note on standard error says why.

    Args:
        store: where to look.
        wanted: an id or a part of it.
        ended_well: without ``wanted``, prefer the newest run whose status is ``ok``.
        unfinished: take what a run has done so far where it has no result: if it is named, or no run has one.

    Raises:
        UsageError: no such run, or several.
    """
    records = store.runs()
    finished = [record for record in records if record.result is not None]
    if not finished and not (unfinished and records):
        raise UsageError(
            f"the store `{store.root}` holds no finished run", code="MC215", hint="run `mcomp apply RECIPE` first"
        )
    if wanted is not None:
        named = _named(records, wanted, ended_well=ended_well)
        return _so_far(named) if unfinished else _result(named)
    if not finished:
        return _so_far(records[0])
    well = [record for record in finished if _result(record)["status"] == "ok"] if ended_well else finished
    found = (well or finished)[0]
    for record in records[: records.index(found)]:
        say(f"note: run {record.id} {_state(record)}; this is {found.id}", error=True)
    return _result(found)


def _named(records: list[RunRecord], wanted: str, *, ended_well: bool) -> RunRecord:
    found = [record for record in records if record.id == wanted]
    if not found and (own := [record for record in records if record.name == wanted]):
        return _newest_of(own, ended_well=ended_well)
    found = found or [record for record in records if wanted in record.id]
    if len(found) > 1:
        found = [record for record in found if record.result is not None] or found
    if not found:
        raise UsageError(f"no run matches `{wanted}`", code="MC215", hint="`mcomp runs` lists them")
    if len(found) > 1:
        listed = ", ".join(record.id for record in found[:3])
        raise UsageError(f"{len(found)} runs match `{wanted}`: {listed}", code="MC215", hint="give more of the id")
    return found[0]


def _newest_of(own: list[RunRecord], *, ended_well: bool) -> RunRecord:
    """Of one recipe's runs, newest first, the one that a person means by its name; which, they are told."""
    finished = [record for record in own if record.result is not None]
    well = [record for record in finished if _result(record)["status"] == "ok"] if ended_well else []
    found = (well or finished or own)[0]
    if len(own) > 1:
        say(f"note: of {len(own)} runs of `{found.name}` this is {found.id}", error=True)
    return found


def _state(record: RunRecord) -> str:
    from mcomp.store.runs import result_fault

    if record.result is not None:
        return f"has the status `{record.result['status']}`"
    fault = result_fault(record.path)
    return f"has a damaged `result.json` ({fault})" if fault else "is not finished"


def _so_far(record: RunRecord) -> dict[str, Any]:
    from mcomp.store.run_events import result_so_far

    if record.result is None and (found := result_so_far(record.path)):
        say(f"note: run {record.id} {_state(record)}; this is what it had done", error=True)
        return found
    return _result(record)


def _result(record: RunRecord) -> dict[str, Any]:
    if record.result is None:
        message = f"run {record.id} {_state(record)}"
        raise UsageError(message, code="MC215", hint="run the recipe again: what it finished is kept")
    return record.result
