"""What `import mcomp` offers, what it costs, and that Python is told what the command line is told."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

import mcomp
from mcomp.cli.main import main
from mcomp.engine.display import Screen, Shown, plan_screen, run_screen, sweep_screen
from mcomp.errors import Diagnostic, McompError, RecipeError, StageError
from mcomp.recipe.diagnostics import render

WRONG = """\
version: 1
model: {name: lenet}
data: {name: digits, batch_sise: 8}
stages:
  - train: {epochs: -1}
  - prine: {ratio: 0.3}
"""

METRICS = {"top1": 98.6111, "params": 61_706, "macs": 416_520, "bytes": 250_000}
STAGE = {
    "id": "train",
    "uses": "train",
    "status": "hit",
    "seconds": 0.0,
    "artifact": "ab",
    "metrics": METRICS,
    "files": {},
    "gates": [],
}
RESULT = {
    "run": "r",
    "name": "<b>small</b>",
    "status": "ok",
    "exit_code": 0,
    "seconds": 2.5,
    "stages": [{**STAGE, "notes": ["kept & sound"]}, {**STAGE, "id": "again", "status": "run", "notes": []}],
}
PLANNED = {"id": "train", "uses": "train", "status": "run", "reason": "never run before"}
PLAN = {"name": "small", "stages": [{**PLANNED, "params": None, "macs": None, "seconds": 1.25, "memory_bytes": None}]}


@dataclass(repr=False)
class Made(Shown):
    """Something that shows itself."""

    screen: Screen

    def _screen(self) -> Screen:
        return self.screen


def test_every_public_name_is_there_and_listed() -> None:
    for name in mcomp.__all__:
        assert getattr(mcomp, name) is not None
    assert mcomp.__all__ == sorted(mcomp.__all__)
    assert set(mcomp.__all__) == {*mcomp._HOMES, "__version__"}
    assert set(mcomp.__all__) <= set(dir(mcomp))


def test_a_type_checker_sees_every_public_name() -> None:
    text = Path(mcomp.__file__).read_text(encoding="utf-8")
    typed = text.partition("if TYPE_CHECKING:")[2].partition("__version__")[0]
    assert all(name in typed for name in mcomp._HOMES)


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute `Enigne`"):
        _ = mcomp.Enigne


def test_recipes_plans_and_results_come_without_torch() -> None:
    names = sorted(set(mcomp.__all__) - {"load_model", "save_model"})
    code = (
        f"import sys, mcomp\nfor name in {names}: getattr(mcomp, name)\nprint(*{{'torch', 'rich'}} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []


def test_a_wrong_recipe_says_the_same_in_python_as_on_the_command_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "wrong.yaml"
    path.write_text(WRONG)
    assert main(["validate", str(path)]) == 3
    with pytest.raises(RecipeError) as caught:
        mcomp.Recipe.load(path)
    printed = capsys.readouterr()
    assert str(caught.value) == render(caught.value.diagnostics)
    assert str(caught.value) in printed.out + printed.err
    assert "did you mean `prune`?" in str(caught.value)
    assert "errors; nothing was run" in str(caught.value)


def test_a_value_that_is_set_from_python_says_where_it_is_wrong() -> None:
    recipe = mcomp.Recipe.from_text("version: 1\nmodel: {name: lenet}\ndata: {name: digits}\nstages: [evaluate]\n")
    assert recipe.with_set("data.batch_size=32").data.batch_size == 32  # type: ignore[attr-defined]
    with pytest.raises(RecipeError, match="--set #1"):
        recipe.with_set("data.batch_sise=32")


def test_a_notebook_shows_an_error_s_text_in_place_of_a_traceback() -> None:
    error = StageError("what \x1b[31mhappened", code="MC400", why="because", hint="do this")
    assert error._render_traceback_() == [
        "error[MC400]: what \\x1b[31mhappened",
        "  = why: because",
        "  = help: do this",
    ]
    wrong = RecipeError([Diagnostic("MC103", "unknown", "f", 1, 3, 2, source_line="a bc")])
    assert wrong._render_traceback_()[-2:] == ["  |   ^^", "1 error; nothing was run"]


def test_a_result_is_a_line_a_table_and_html() -> None:
    shown = Made(run_screen(RESULT))
    assert repr(shown) == "<Made <b>small</b>: ok, 2 stages (1 cached), top-1 98.61 %, 61.7 k params, 250 kB, 2.5 s>"
    lines = str(shown).splitlines()
    assert len(lines) == 5
    assert lines[1].split()[:2] == ["stage", "top-1"]
    assert lines[2].index("98.61") + len("98.61") == lines[3].index("98.61") + len("98.61")
    assert lines[4] == "train: kept & sound"
    html = shown._repr_html_()
    assert "&lt;b&gt;small&lt;/b&gt;" in html
    assert "<li>train: kept &amp; sound</li>" in html
    assert html.count("<tr>") == 3


def test_a_plan_says_what_would_run() -> None:
    shown = Made(plan_screen(PLAN))
    assert repr(shown) == "<Made small: 1 stage (1 run)>"
    assert str(shown).splitlines()[2].split(maxsplit=6)[2:] == ["–", "–", "1.2", "–", "never run before"]


def test_a_sweep_is_one_row_a_run() -> None:
    runs = [{**RESULT, "sweep": {"vars.ratio": 0.3}}, {**RESULT, "sweep": {"vars.ratio": 0.5}, "status": "failed"}]
    shown = Made(sweep_screen({"name": "small", "points": 3, "runs": runs, "exit_code": 5}))
    assert repr(shown) == "<Made small: 1 of 3 runs ok>"
    assert [line.split()[0] for line in str(shown).splitlines()[1:]] == ["ratio", "0.3", "0.5", "1"]


def test_rich_prints_the_same_text_and_takes_no_markup_from_it() -> None:
    from rich.console import Console

    with open(os.devnull, "w") as nowhere:
        console = Console(width=200, record=True, file=nowhere)
        console.print(Made(Screen("[red]x", ("stage",), [("a\x1b[31m",)])))
    assert console.export_text().splitlines() == ["[red]x", "stage", "a\\x1b[31m"]


def test_the_base_of_all_errors_is_public() -> None:
    assert issubclass(RecipeError, McompError)
