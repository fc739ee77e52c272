"""Which stage got its model from which."""

from __future__ import annotations

from typing import Any

from mcomp.engine.lineage import ends, source_of, way_to


def stages(*given: tuple[str, str | None, bool]) -> list[dict[str, Any]]:
    """(id, from, finished) each."""
    return [{"id": name, "from": source, "artifact": "a" if done else None} for name, source, done in given]


BRANCHED = stages(
    ("train", None, True), ("prune", "train", True), ("tune", "prune", False), ("a", "tune", True), ("b", "train", True)
)


def test_a_stage_that_was_skipped_is_looked_through() -> None:
    assert source_of("a", BRANCHED) == "prune"
    assert [stage["id"] for stage in way_to("a", BRANCHED)] == ["train", "prune", "a"]


def test_every_branch_has_an_end() -> None:
    assert ends(BRANCHED) == ["a", "b"]
    assert [stage["id"] for stage in way_to("b", BRANCHED)] == ["train", "b"]


def test_runs_from_before_branches_go_on_from_stage_to_stage() -> None:
    old = [{"id": name, "artifact": "a"} for name in ("train", "prune", "tune")]
    assert ends(old) == ["tune"]
    assert [stage["id"] for stage in way_to("tune", old)] == ["train", "prune", "tune"]


def test_sources_that_lead_nowhere_or_in_a_circle_end_the_way() -> None:
    assert [stage["id"] for stage in way_to("b", stages(("a", "gone", True), ("b", "a", True)))] == ["a", "b"]
    assert [stage["id"] for stage in way_to("b", stages(("a", "b", True), ("b", "a", True)))] == ["a", "b"]
    assert source_of("a", stages(("a", "b", False), ("b", "a", False))) is None
