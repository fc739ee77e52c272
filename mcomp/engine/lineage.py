"""Which stage of a run got its model from which, read off the run's result. No torch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

Outcome = dict[str, Any]


def source_of(stage_id: str, stages: Sequence[Outcome]) -> str | None:
    """The stage whose model this one got, looking through those that were skipped; None for the recipe's own model.

    Args:
        stage_id: a stage of the run.
        stages: the outcomes of all its stages, in order.
    """
    by_id = {stage["id"]: stage for stage in stages}
    given: dict[str, str | None] = {stage["id"]: stage.get("from") for stage in stages}
    if not any(given.values()):  # written before recipes had branches
        given = dict(zip(by_id, [None, *by_id], strict=False))
    found = given.get(stage_id)
    while found is not None and found in by_id and not by_id[found]["artifact"]:
        found = given.pop(found, None)  # once each: a damaged result may lead in a circle
    return found


def ends(stages: Sequence[Outcome]) -> list[str]:
    """The finished stages whose model no other finished one went on from."""
    finished = [stage["id"] for stage in stages if stage["artifact"]]
    used = {source_of(name, stages) for name in finished}
    return [name for name in finished if name not in used]


def way_to(stage_id: str, stages: Sequence[Outcome]) -> list[Outcome]:
    """The finished stages that made a stage's model, the first of them first, that stage last."""
    by_id = {stage["id"]: stage for stage in stages}
    way: list[Outcome] = []
    here: str | None = stage_id
    while here is not None and here in by_id and by_id[here] not in way:
        way.insert(0, by_id[here])
        here = source_of(here, stages)
    return way
