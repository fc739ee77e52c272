"""A recipe with a sweep: every point is a run, and what points have in common is computed once."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path
from typing import Any

import pytest

from mcomp.cli.main import main
from mcomp.engine import Engine
from mcomp.errors import UsageError
from mcomp.recipe import Recipe

RECIPE = """\
version: 1
name: s
vars: {ratio: 0.3}
model: {name: lenet}
data: {name: digits, limit: 64}
sweep:
  product:
    vars.ratio: [0.3, 0.5]
    stages.quantize.w_bits: [8, 4]
stages:
  - train: {epochs: 1}
  - prune: {ratio: "${ratio}", importance: l1}
  - quantize: {epochs: 1}
"""


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def told(capsys: pytest.CaptureFixture[str], verb: str, text: str = RECIPE) -> tuple[int, dict[str, Any]]:
    Path("s.yaml").write_text(text)
    capsys.readouterr()
    code = main([verb, "s.yaml", "--json"])
    return code, json.loads(capsys.readouterr().out)


def statuses(result: dict[str, Any]) -> list[str]:
    return [" ".join(stage["status"] for stage in run["stages"]) for run in result["runs"]]


def test_every_point_is_a_run_and_their_beginnings_are_computed_once(
    place: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    import mcomp.data.loading as loading

    loads: list[object] = []
    assemble = loading._assemble
    monkeypatch.setattr(loading, "_assemble", lambda *given: loads.append(given) or assemble(*given))
    code, result = told(capsys, "apply")
    assert code == 0
    assert statuses(result) == ["run run run", "hit hit run", "hit run run", "hit hit run"]
    points = [(0.3, 8), (0.3, 4), (0.5, 8), (0.5, 4)]
    assert [tuple(run["sweep"].values()) for run in result["runs"]] == points
    assert list(result["runs"][0]["sweep"]) == ["vars.ratio", "stages.quantize.w_bits"]
    assert {"run", "name", "status", "exit_code", "seconds", "stages"} <= result["runs"][0].keys()
    assert len(loads) == 1
    _, again = told(capsys, "apply")
    assert statuses(again) == ["hit hit hit"] * 4
    assert main(["apply", "s.yaml"]) == 0
    shown = capsys.readouterr()
    assert "ok: all 4 runs of `s`" in shown.out
    assert "w_bits" in shown.out
    assert main(["runs"]) == 0
    assert "vars.ratio=0.5, stages.quantize.w_bits=4" in capsys.readouterr().out


def test_the_plan_of_a_sweep_says_which_run_makes_what(place: Path) -> None:
    plans = Engine(place / "store").plans(Recipe.from_text(RECIPE))
    shared = [[planned.shared for planned in plan.stages] for plan in plans]
    assert shared == [[None, None, None], [1, 1, None], [1, None, None], [1, 3, None]]
    assert plans[3].as_dict()["sweep"] == {"vars.ratio": 0.5, "stages.quantize.w_bits": 4}
    assert not (place / "store").exists()


def test_a_sweep_is_not_taken_for_one_run(place: Path) -> None:
    recipe = Recipe.from_text(RECIPE)
    for action in (Engine().apply, Engine().plan):
        with pytest.raises(UsageError) as error:
            action(recipe)
        assert error.value.code == "MC270"
    assert not (place / ".mcomp").exists()


POINTS = """\
version: 1
name: s
model: {name: lenet}
data: {name: digits, limit: 64}
plugins: [./point_stage.py]
sweep: {product: {stages.point.way: WAYS}}
stages:
  - point
  - evaluate
"""

PLUGIN = """\
import os
import signal
import time

from pydantic import Field

from mcomp.stages import Stage, StageOptions, StageResult, Traits, register


@register
class Point(Stage):
    \"\"\"End well, badly, or with a signal.\"\"\"

    name, version = "point", 1
    traits = Traits(metrics={"figure"}, needs_data=False)

    class Options(StageOptions):
        way: str = Field("well", description="how to end")

    def run(self, ctx, options):
        if options.way == "badly":
            raise ValueError("no such luck")
        if options.way.startswith("SIG"):
            os.kill(os.getpid(), getattr(signal, options.way))
        if options.way == "low":
            return StageResult(model=ctx.model, metrics={"figure": 0.0})
        return StageResult(model=ctx.model, metrics={"figure": 1.0})
"""


def points(place: Path, *ways: str, gates: bool = False) -> list[str]:
    (place / "point_stage.py").write_text(PLUGIN)
    text = POINTS.replace("WAYS", f"[{', '.join(ways)}]")
    if gates:
        text = text.replace("- point\n", "- point: {}\n    gates: [{metric: figure, min: 1}]\n")
    (place / "s.yaml").write_text(text)
    return ["apply", "s.yaml", "--trust"]


def test_a_point_that_fails_or_misses_its_gate_does_not_stop_the_others(
    place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = points(place, "low", "badly", "well", gates=True)
    assert main([*words, "--json"]) == 6
    result = json.loads(capsys.readouterr().out)
    assert [run["status"] for run in result["runs"]] == ["gate_failed", "failed", "ok"]
    assert [run["exit_code"] for run in result["runs"]] == [6, 5, 0]
    assert result["exit_code"] == 6
    assert main(words) == 6
    said = capsys.readouterr().err
    assert "no such luck" in said
    assert said.splitlines()[-1].startswith("1 of 3 runs of `s` ended well; go on with: mcomp apply s.yaml")


def test_a_point_that_is_refused_does_not_stop_the_others(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = RECIPE.replace("vars.ratio: [0.3, 0.5]", "model.num_classes: [2, 10]").replace(
        "    stages.quantize.w_bits: [8, 4]\n", ""
    )
    code, result = told(capsys, "apply", text)
    assert [run["status"] for run in result["runs"]] == ["refused", "ok"]
    assert code == 4
    assert result["runs"][0]["errors"][0]["code"] == "MC238"


@pytest.mark.parametrize(("way", "code"), [("SIGINT", 130), ("SIGTERM", 143)])
def test_an_interruption_ends_the_sweep_and_the_same_command_goes_on(
    way: str, code: int, place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = points(place, "well", way, "other")
    assert main(words) == code
    said = capsys.readouterr()
    assert said.err.splitlines()[-1] == (
        "interrupted, nothing lost: 1 of 3 runs of `s` ended well; go on with: mcomp apply s.yaml --trust"
    )
    assert "1 of 3 runs were not begun" in said.out
    # the signal came inside the stage, which was committed before the run stopped
    assert main([*words, "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert statuses(result) == ["hit hit", "hit hit", "run hit"]  # `evaluate` gets the same model every time


def test_a_signal_before_anything_ran_names_the_command_too(
    place: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    import mcomp.engine.core as core

    def slow(*_given: object, **_named: object) -> None:
        os.kill(os.getpid(), signal.SIGTERM)

    words = points(place, "well")
    Path("s.yaml").write_text(Path("s.yaml").read_text().replace("sweep: {product: {stages.point.way: [well]}}\n", ""))
    monkeypatch.setattr(core, "make_plan", slow)
    assert main(words) == 143
    assert "interrupted before anything was run; go on with: mcomp apply s.yaml --trust" in capsys.readouterr().err
    assert not list(place.glob(".mcomp/runs/*"))


def test_a_signal_while_waiting_for_another_process_ends_the_wait(place: Path) -> None:
    points(place, "well")
    (recipe,) = Recipe.load("s.yaml", trust=True).variants
    engine = Engine()
    key = engine.plan(recipe).stages[0].key
    assert key is not None

    def on_wait(event: dict[str, Any]) -> None:
        if event["event"] == "notice" and "waiting for process" in event["text"]:
            os.kill(os.getpid(), signal.SIGINT)

    with engine.store.lock(key):
        result = Engine(engine.store, listeners=[on_wait]).apply(recipe)
    assert (result.status, result.exit_code) == ("interrupted", 130)
    assert engine.apply(recipe).ok


def test_a_signal_during_the_last_commit_interrupts_and_loses_nothing(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from mcomp.store import Store

    points(place, "well")
    (recipe,) = Recipe.load("s.yaml", trust=True).variants
    put = Store.put_action
    monkeypatch.setattr(Store, "put_action", lambda *given: (os.kill(os.getpid(), signal.SIGTERM), put(*given)))
    result = Engine().apply(recipe)
    assert (result.status, result.exit_code) == ("interrupted", 143)
    monkeypatch.undo()
    result = Engine(place / ".mcomp").apply(recipe)
    assert [stage.status for stage in result.stages] == ["hit", "run"]
