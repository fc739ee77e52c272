"""A run, a plan and a sweep as Python shows them: the engine joined to its display."""

from __future__ import annotations

from pathlib import Path

import pytest

from mcomp import Engine, Recipe

RECIPE = """\
version: 1
name: shown
model: {name: lenet, width: 0.5}
data: {name: digits}
stages: [evaluate]
"""


def test_a_run_is_shown_on_request_and_is_a_line_at_a_prompt(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = Recipe.from_text(RECIPE)
    engine = Engine(tmp_path / "store", progress=True)
    assert repr(engine.plan(recipe)) == "<Plan shown: 1 stage (1 run)>"
    assert "never run before" in engine.plan(recipe)._repr_html_()
    result = engine.apply(recipe)
    assert "[evaluate] run" in capsys.readouterr().err
    assert repr(result).startswith("<RunResult shown: ok, 1 stage, top-1 ")
    assert str(result).splitlines()[1].startswith("stage")
    assert "<td>evaluate</td>" in result._repr_html_()
    again = Engine(tmp_path / "store").apply(recipe)
    assert capsys.readouterr().err == ""
    assert "(1 cached)" in repr(again)


def test_a_sweep_shows_each_of_its_runs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    recipe = Recipe.from_text(RECIPE + "sweep: {product: {model.width: [0.5, 0.75]}}\n")
    swept = Engine(tmp_path / "store", progress=True).sweep(recipe)
    assert capsys.readouterr().err.count("[evaluate] run") == 2
    assert repr(swept) == "<SweepResult shown: 2 of 2 runs ok>"
    assert [line.split()[0] for line in str(swept).splitlines()[1:]] == ["width", "0.5", "0.75"]
