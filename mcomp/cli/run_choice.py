"""Find the run that a person means: by id, by a part of it, or the newest."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from mcomp.errors import UsageError

if TYPE_CHECKING:
    from mcomp.store import Store


def chosen_run(store: Store, wanted: str | None) -> dict[str, Any]:
    """The result of the run whose id contains ``wanted``; of the newest finished run without one.

    Raises:
        UsageError: no such run, or several.
    """
    finished = [record for record in store.runs() if record.result is not None]
    if not finished:
        raise UsageError(
            f"the store `{store.root}` holds no finished run", code="MC215", hint="run `mcomp apply RECIPE` first"
        )
    if wanted is None:
        found = finished[:1]
    else:
        found = [record for record in finished if record.id == wanted] or [
            record for record in finished if wanted in record.id
        ]
    if not found:
        raise UsageError(f"no run matches `{wanted}`", code="MC215", hint="`mcomp runs` lists them")
    if len(found) > 1:
        listed = ", ".join(record.id for record in found[:3])
        raise UsageError(f"{len(found)} runs match `{wanted}`: {listed}", code="MC215", hint="give more of the id")
    result = found[0].result
    assert result is not None
    return result
