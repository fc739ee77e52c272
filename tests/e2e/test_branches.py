"""One recipe, several tails, and stages that run only under a condition."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from mcomp.cli.main import main

PLUGIN = """\
from pathlib import Path

from pydantic import Field

from mcomp.stages import Stage, StageOptions, StageResult, Traits, register


@register
class Mark(Stage):
    \"\"\"Hand the model on with a given figure, and leave a line in a file.\"\"\"

    name, version = "mark", 1
    traits = Traits(metrics={"figure"}, needs_data=False)

    class Options(StageOptions):
        figure: float = Field(0.0, description="the figure to report")
        teacher: str = Field("", description="an earlier stage to read")

    @classmethod
    def reads(cls, options):
        return [options.teacher] if options.teacher else []

    def run(self, ctx, options):
        for load in ctx.earlier.values():
            load()
        with Path("done.txt").open("a") as file:
            file.write(ctx.stage_id + "\\n")
        return StageResult(model=ctx.model, metrics={"figure": options.figure})
"""

HEAD = "version: 1\nname: b\nplugins: [./mark_stage.py]\nmodel: {name: lenet}\ndata: {name: digits}\nstages:\n"


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "mark_stage.py").write_text(PLUGIN)
    (tmp_path / "done.txt").write_text("")
    monkeypatch.chdir(tmp_path)
    return tmp_path


class Told:
    """What a command printed as JSON, and how it ended."""

    def __init__(self, code: int, result: dict[str, Any]) -> None:
        self.code, self.result = code, result
        self.stages = {stage["id"]: stage for stage in result["stages"]}

    def __getitem__(self, stage_id: str) -> dict[str, Any]:
        found: dict[str, Any] = self.stages[stage_id]
        return found

    @property
    def statuses(self) -> str:
        return " ".join(stage["status"] for stage in self.stages.values())


def told(capsys: pytest.CaptureFixture[str], verb: str, stages: str, *words: str) -> Told:
    Path("b.yaml").write_text(HEAD + stages)
    capsys.readouterr()
    code = main([verb, "b.yaml", "--trust", "--json", *words])
    return Told(code, json.loads(capsys.readouterr().out))


def done() -> list[str]:
    return Path("done.txt").read_text().split()


TAILS = """\
  - mark: {figure: 90}
    id: base
  - mark: {figure: 80}
    id: small
  - mark: {figure: 70}
    id: tiny
  - mark: {figure: 85}
    id: other
    from: base
  - mark: {figure: 75}
    id: last
"""


def test_two_tails_share_their_beginning_and_each_stage_runs_once(
    place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first = told(capsys, "apply", TAILS)
    assert (first.code, first.statuses) == (0, "run run run run run")
    assert done() == ["base", "small", "tiny", "other", "last"]
    assert [stage["from"] for stage in first.stages.values()] == [None, "base", "small", "base", "other"]
    assert told(capsys, "apply", TAILS).statuses == "hit hit hit hit hit"


def test_a_change_in_one_tail_leaves_the_other_alone(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    told(capsys, "apply", TAILS)
    changed = TAILS.replace("figure: 80", "figure: 81")
    plan = told(capsys, "plan", changed)
    assert plan.statuses == "hit run run hit hit"
    assert plan["tiny"]["reason"] == "follows `small`, which runs"
    # `small` hands on the very same model, so what follows it has the key it had
    assert told(capsys, "apply", changed).statuses == "hit run hit hit hit"


def test_an_export_of_several_tails_asks_which(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    told(capsys, "apply", TAILS)
    assert main(["export", "out"]) == 2
    assert "one per branch: `tiny`, `last`" in capsys.readouterr().err
    assert main(["export", "out", "--stage", "tiny"]) == 0
    assert main(["report"]) == 0


def when(rule: str, otherwise: str = "") -> str:
    return (
        "  - mark: {figure: 90}\n    id: base\n"
        f"  - mark: {{figure: 95}}\n    id: tune\n    when: {rule}\n{otherwise}"
        "  - mark: {figure: 50}\n    id: end\n    gates: [{metric: figure, max_drop: 45, vs: tune}]\n"
    )


def test_a_figure_decides_and_the_plan_knows_it_as_soon_as_it_is_cached(
    place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = when("{stage: base, metric: figure, max: 85}")
    plan = told(capsys, "plan", recipe)
    assert (plan.statuses, plan["tune"]["reason"]) == ("run run run", "if figure of `base` is at most 85")
    first = told(capsys, "apply", recipe)
    assert (first.code, first.statuses) == (0, "run skipped run")
    assert first["tune"]["notes"] == ["skipped: figure of `base` is 90, not at most 85"]
    assert first["end"]["gates"][0]["value"] == 40  # the skipped stage stands for its source
    assert done() == ["base", "end"]
    assert told(capsys, "plan", recipe).statuses == "hit skip hit"
    again = told(capsys, "apply", when("{stage: base, metric: figure, min: 85}"))
    assert again.statuses == "hit run hit"


def test_a_stage_runs_in_place_of_another(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    recipe = when("false", "    otherwise: {mark: {figure: 94}}\n")
    first = told(capsys, "apply", recipe)
    assert (first.code, first.statuses) == (0, "run run run")
    assert first["tune"]["metrics"]["figure"] == 94
    assert first["tune"]["notes"] == ["`mark`, its `otherwise`, instead of `mark`: its `when` is false"]
    assert "instead of `mark`" in told(capsys, "plan", recipe)["tune"]["reason"]
    assert told(capsys, "apply", recipe).statuses == "hit hit hit"


@pytest.mark.parametrize(("otherwise", "code", "status"), [("stop", 0, "ok"), ("fail", 6, "gate_failed")])
def test_a_condition_may_end_the_run(
    otherwise: str, code: int, status: str, place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = when("{stage: base, metric: figure, min: 99}", f"    otherwise: {otherwise}\n")
    for first in ("run", "hit"):
        found = told(capsys, "apply", recipe)
        assert (found.code, found.result["status"], found.statuses) == (code, status, f"{first} skipped skipped")
        assert "figure of `base` is 90, not at least 99" in found["tune"]["notes"][0]
        assert found["end"]["notes"] == ["the run ends at `tune`"]
        assert [error["code"] for error in found.result.get("errors", [])] == ["MC503"] * (code == 6)
    assert done() == ["base"]
    assert told(capsys, "plan", recipe).statuses == "hit skip skip"
    assert main(["apply", "b.yaml", "--trust"]) == code


def test_a_skipped_teacher_is_the_model_of_its_source(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    recipe = (
        "  - mark: {figure: 90}\n    id: base\n"
        "  - mark: {figure: 95}\n    id: teacher\n    when: false\n"
        "  - mark: {figure: 50, teacher: teacher}\n    id: pupil\n"
    )
    assert told(capsys, "apply", recipe).statuses == "run skipped run"
    assert told(capsys, "apply", recipe).statuses == "hit skipped hit"


def test_a_recipe_of_skipped_stages_ends_well(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = told(capsys, "apply", "  - mark: {figure: 90}\n    when: false\n")
    assert (found.code, found.statuses) == (0, "skipped")
    assert main(["export", "out"]) == 2


def test_a_gate_that_fails_on_cached_figures_shows_in_the_plan(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    told(capsys, "apply", TAILS)
    gates = "    id: small\n    gates: [{metric: figure, min: 81}]\n"
    plan = told(capsys, "plan", TAILS.replace("    id: small\n", gates))
    assert plan.statuses == "hit hit skip skip skip"
    assert "figure min: 80 (limit 81)" in plan["small"]["reason"]


def test_the_log_of_a_run_holds_its_plan_its_gates_and_every_outcome(
    place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    told(capsys, "apply", when("false"))
    (path,) = place.glob(".mcomp/runs/*/events.jsonl")
    events = [json.loads(line) for line in path.read_text().splitlines()]
    assert [event["event"] for event in events if event["event"] != "log"] == [
        *("run_started", "stage_started", "stage_finished"),
        *("stage_started", "stage_finished"),
        *("stage_started", "gate", "stage_finished", "run_finished"),
    ]
    assert [planned["status"] for planned in events[0]["plan"]] == ["run", "skip", "run"]
    gate = next(event["gate"] for event in events if event["event"] == "gate")
    assert (gate["metric"], gate["limit"], gate["passed"]) == ("figure", 45, True)
