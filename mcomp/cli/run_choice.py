"""Find the run that a person means: by id, by a part of it, or the newest."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from mcomp.cli.common import say
from mcomp.errors import UsageError

if TYPE_CHECKING:
    from mcomp.store import RunRecord, Store


def chosen_run(store: Store, wanted: str | None, *, ended_well: bool = False) -> dict[str, Any]:
    """The result of the run whose id contains ``wanted``; of the newest finished run without one.

    Where that is not the newest of all, a note on standard error says why.

    Args:
        store: where to look.
        wanted: an id or a part of it.
        ended_well: without ``wanted``, prefer the newest run whose status is ``ok``.

    Raises:
        UsageError: no such run, or several.
    """
    records = store.runs()
    finished = [record for record in records if record.result is not None]
    if not finished:
        raise UsageError(
            f"the store `{store.root}` holds no finished run", code="MC215", hint="run `mcomp apply RECIPE` first"
        )
    if wanted is not None:
        return _result(_named(records, wanted))
    well = [record for record in finished if _result(record)["status"] == "ok"] if ended_well else finished
    found = (well or finished)[0]
    for record in records[: records.index(found)]:
        say(f"note: run {record.id} {_state(record)}; this is {found.id}", error=True)
    return _result(found)


def _named(records: list[RunRecord], wanted: str) -> RunRecord:
    found = [record for record in records if record.id == wanted]
    found = found or [record for record in records if wanted in record.id]
    if len(found) > 1:
        found = [record for record in found if record.result is not None] or found
    if not found:
        raise UsageError(f"no run matches `{wanted}`", code="MC215", hint="`mcomp runs` lists them")
    if len(found) > 1:
        listed = ", ".join(record.id for record in found[:3])
        raise UsageError(f"{len(found)} runs match `{wanted}`: {listed}", code="MC215", hint="give more of the id")
    if found[0].result is None:
        message = f"run {found[0].id} {_state(found[0])}"
        raise UsageError(message, code="MC215", hint="run the recipe again: what it finished is kept")
    return found[0]


def _state(record: RunRecord) -> str:
    from mcomp.store.runs import result_fault

    if record.result is not None:
        return f"has the status `{record.result['status']}`"
    fault = result_fault(record.path)
    return f"has a damaged `result.json` ({fault})" if fault else "is not finished"


def _result(record: RunRecord) -> dict[str, Any]:
    assert record.result is not None
    return record.result
