from __future__ import annotations

import math
from typing import Any

import pytest

from mcomp.engine.results import GateOutcome, RunResult, StageOutcome, SweepResult
from mcomp.engine.summary import gate_text, sweep_columns, sweep_remarks, sweep_rows
from mcomp.store.digest import finite


def run(code: int = 0, status: Any = "ok", **sweep: Any) -> RunResult:
    stage = StageOutcome("train", "train", "run", "k", "a", metrics={"top1": 97.0, "params": 1000})
    skipped = StageOutcome("evaluate", "evaluate", "skipped", source="train")
    return RunResult("r", "net", status, code, 1.0, [stage, skipped], sweep=sweep)


@pytest.mark.parametrize(
    ("codes", "stopped_by", "code"), [([], 0, 0), ([0, 6, 5], 0, 6), ([0, 0], 0, 0), ([6, 130], 2, 130), ([], 15, 143)]
)
def test_a_sweep_ends_as_its_first_bad_run_unless_it_was_interrupted(
    codes: list[int], stopped_by: int, code: int
) -> None:
    result = SweepResult("net", [run(one) for one in codes], 4, stopped_by)
    assert result.exit_code == code
    assert result.ok is (code == 0)


def test_a_run_of_a_sweep_says_what_the_sweep_set() -> None:
    found = SweepResult("net", [run(**{"vars.ratio": 0.3})], 1).as_dict()
    assert [one["sweep"] for one in found["runs"]] == [{"vars.ratio": 0.3}]
    assert "sweep" not in run().as_dict()


def test_the_comparison_has_a_row_per_run_with_the_figures_of_its_last_finished_stage() -> None:
    points = [{"vars.ratio": 0.3, "stages.a.bits": 8}, {"vars.ratio": [1, True], "stages.a.bits": None}]
    result = SweepResult("net", [run(**points[0]), run(6, "gate_failed", **points[1])], 3).as_dict()
    assert sweep_columns(result)[:3] == ("ratio", "bits", "stage")
    rows = sweep_rows(result)
    assert [row[:5] for row in rows] == [
        ("0.3", "8", "train", "97.00", "1 k"),
        ("[1, true]", "null", "train", "97.00", "1 k"),
    ]
    assert [row[-1] for row in rows] == ["ok", "gate failed"]
    assert all(len(row) == len(sweep_columns(result)) for row in rows)
    assert sweep_remarks(result) == ["1 of 3 runs were not begun"]


def test_paths_that_end_alike_are_shown_whole() -> None:
    result = SweepResult("net", [run(**{"stages.a.bits": 8, "stages.b.bits": 4})], 1).as_dict()
    assert sweep_columns(result)[:2] == ("stages.a.bits", "stages.b.bits")


def test_a_gate_that_measured_no_number_reads_the_same_live_and_stored() -> None:
    live = GateOutcome("top1", "min", 97.0, math.nan, passed=False).as_dict()
    assert gate_text(live) == gate_text(finite(live)) == "top1 min: nan (limit 97)"


def test_html_of_a_run_and_of_a_sweep_escapes_what_the_recipe_says() -> None:
    evil = run(**{"vars.<b>": "<script>"})
    evil.stages[0].id = "<img>"
    for html in (evil._repr_html_(), SweepResult("net", [evil], 1)._repr_html_()):
        assert "<script>" not in html
        assert "<img>" not in html


def test_a_stage_that_was_never_reached_is_told_apart_from_a_skipped_one() -> None:
    reached = StageOutcome("a", "train", "failed", ending="interrupted")
    for stage, told in (
        (reached, ("failed", "interrupted")),
        (StageOutcome("b", "evaluate", "skipped"), ("skipped", "skipped")),
        (StageOutcome("c", "evaluate", "skipped", ending="not run"), ("skipped", "not run")),
    ):
        found = stage.as_dict()
        assert (found["status"], found["outcome"]) == told


def test_an_outcome_shows_itself_in_one_line() -> None:
    stage = StageOutcome("t", "train", "run", "k" * 64, metrics={"top1": 97.0}, details={"history": [0] * 999})
    assert repr(stage) == "<StageOutcome t: run, top1 97.0>"


def test_a_sweep_has_the_status_of_its_first_bad_run() -> None:
    runs = [run(), run(6, "gate_failed"), run(5, "failed")]
    assert SweepResult("net", runs, 3).as_dict()["status"] == "gate_failed"
    assert SweepResult("net", runs, 3, stopped_by=2).as_dict()["status"] == "interrupted"
    assert SweepResult("net", runs[:1], 1).as_dict()["status"] == "ok"
