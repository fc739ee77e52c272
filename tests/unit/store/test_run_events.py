"""What the events of a run tell of it while it has no result."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from mcomp.store.run_events import events_of, result_so_far
from tests.unit.store.stores import outcome

PLAN = [{"id": name, "uses": name} for name in ("train", "prune", "finetune")]
BEGUN = {"event": "run_started", "time": 10.0, "name": "net", "sweep": {"vars.ratio": 0.5}, "plan": PLAN}


def event(kind: str, stage: str, time: float, **fields: Any) -> dict[str, Any]:
    return {"event": kind, "stage": stage, "time": time, **fields}


def write(folder: Path, *events: Any, tail: str = "") -> Path:
    (folder / "events.jsonl").write_text("".join(json.dumps(one) + "\n" for one in events) + tail)
    return folder


def test_a_run_that_was_killed_tells_its_stages_in_the_order_of_the_plan(tmp_path: Path) -> None:
    done = outcome("train", "a" * 64, "b" * 64)
    write(
        tmp_path,
        BEGUN,
        event("stage_started", "train", 11.0),
        event("stage_finished", "train", 14.0, outcome=done),
        event("stage_started", "prune", 15.0),
        tail='{"event": "stage_fini',
    )
    found = result_so_far(tmp_path)
    assert found is not None
    assert (found["run"], found["name"], found["status"]) == (tmp_path.name, "net", "unfinished")
    assert (found["seconds"], found["sweep"]) == (5.0, {"vars.ratio": 0.5})
    assert found["stages"][0] == done
    assert [stage.get("outcome") for stage in found["stages"]] == [None, "unfinished", "not run"]
    assert [stage["artifact"] for stage in found["stages"]] == ["b" * 64, None, None]


def test_of_a_stage_that_ran_again_the_last_outcome_counts(tmp_path: Path) -> None:
    first, second = ({**outcome("train", None, None), "seconds": seconds} for seconds in (1.0, 2.0))
    finished = [event("stage_finished", "train", 11.0, outcome=one) for one in (first, second)]
    found = result_so_far(write(tmp_path, BEGUN, *finished))
    assert found is not None
    assert found["stages"][0]["seconds"] == 2.0


@pytest.mark.parametrize(
    "events",
    [
        [],
        [3, "text", None],
        [{"event": "run_started"}],
        [{**BEGUN, "name": 3}],
        [{**BEGUN, "plan": "train"}],
    ],
    ids=str,
)
def test_a_run_of_which_nothing_is_known_has_no_result(events: list[Any], tmp_path: Path) -> None:
    assert result_so_far(write(tmp_path, *events)) is None


@pytest.mark.parametrize("wrong", [None, 3, {}, {"id": "train"}, {**outcome("train", "no digest", None)}])
def test_an_outcome_that_no_run_writes_is_not_believed(wrong: Any, tmp_path: Path) -> None:
    found = result_so_far(write(tmp_path, BEGUN, event("stage_finished", "train", 11.0, outcome=wrong)))
    assert found is not None
    assert found["stages"][0]["outcome"] == "not run"


def test_a_plan_of_things_that_are_no_stages_has_none(tmp_path: Path) -> None:
    found = result_so_far(write(tmp_path, {**BEGUN, "plan": [3, {}, {"id": []}, {"id": "a", "uses": None}, *PLAN]}))
    assert found is not None
    assert [stage["id"] for stage in found["stages"]] == ["train", "prune", "finetune"]


def test_a_folder_without_events_has_none(tmp_path: Path) -> None:
    assert list(events_of(tmp_path)) == []
    assert result_so_far(tmp_path) is None
