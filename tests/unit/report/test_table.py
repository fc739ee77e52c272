"""Tables on terminals of every width: nothing in them is cut."""

from __future__ import annotations

import io
import re
import sys

import pytest

from mcomp.cli.main import main
from mcomp.engine.summary import rows
from mcomp.report.plan_table import print_outlook
from mcomp.report.table import READABLE, print_table

COLUMNS = ("stage", "status", "params", "why")
BODY = [
    (
        "a_stage_with_a_long_name",
        "run",
        "21.7 k",
        "the option `epochs` was 3 and is now 4, which changes what it learns",
    ),
    ("b", "hit", "1.2 M", "same key 21dab19a"),
]


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def shown(width: int | None, monkeypatch: pytest.MonkeyPatch, columns: tuple[str, ...] = COLUMNS) -> list[str]:
    """The lines of a table on a terminal of so many columns; None for a pipe."""
    out = io.StringIO() if width is None else Terminal()
    monkeypatch.setattr(sys, "stdout", out)
    monkeypatch.setenv("COLUMNS", str(width or 20))
    print_table("a run", columns, [row[-len(columns) :] for row in BODY])
    return re.sub(r"\x1b\[[0-9;]*m", "", out.getvalue()).splitlines()


@pytest.mark.parametrize("width", [20, 40, 60, 80, 100, 160, None])
def test_every_word_of_a_table_is_there_at_every_width(width: int | None, monkeypatch: pytest.MonkeyPatch) -> None:
    text = " ".join(shown(width, monkeypatch))
    assert "…" not in text
    for word in {word for row in BODY for cell in row for word in cell.split()}:
        assert word in text


@pytest.mark.parametrize("width", [80, 100, 160])
def test_no_line_of_a_table_is_wider_than_the_terminal(width: int, monkeypatch: pytest.MonkeyPatch) -> None:
    assert max(map(len, shown(width, monkeypatch))) <= width


def test_reasons_follow_as_lines_where_their_column_has_no_room(monkeypatch: pytest.MonkeyPatch) -> None:
    assert "b: same key 21dab19a" in shown(60, monkeypatch)
    assert "b: same key 21dab19a" not in shown(160, monkeypatch)


def test_rows_become_blocks_where_figures_have_no_room(monkeypatch: pytest.MonkeyPatch) -> None:
    lines = shown(20, monkeypatch)
    assert lines[lines.index("stage b") + 1 :][:2] == ["  status: hit", "  params: 1.2 M"]


def test_a_cell_is_on_one_line_in_a_pipe(monkeypatch: pytest.MonkeyPatch) -> None:
    assert any(BODY[0][-1] in line for line in shown(None, monkeypatch))


def test_a_plan_names_its_point_of_a_sweep_as_recipes_write_it(capsys: pytest.CaptureFixture[str]) -> None:
    costs = dict.fromkeys(("params", "macs", "shape", "seconds", "cpu_seconds", "memory_bytes"))
    stage = {"id": "train", "status": "run", "reason": "never run before", **costs}
    sweep = {"stages.train.augment": True, "model.weights": None, "seed": 3}
    disk = {"needed_bytes": None, "free_bytes": 10**9}
    print_outlook({"name": "net", "sweep": sweep, "stages": [stage], "disk": disk, "backends": {}, **costs})
    title = capsys.readouterr().out.splitlines()[0]
    assert title == "net: stages.train.augment=true, model.weights=null, seed=3"


def test_a_table_to_read_is_wrapped_in_a_pipe_too(monkeypatch: pytest.MonkeyPatch) -> None:
    out = io.StringIO()
    monkeypatch.setattr(sys, "stdout", out)
    assert main(["stages", "prune"]) == 0
    lines = out.getvalue().splitlines()
    assert max(map(len, lines[lines.index("options") :])) <= READABLE


def test_macs_that_zeros_leave_stand_beside_those_of_the_network() -> None:
    stage = {"id": "s", "status": "hit", "gates": [], "metrics": {"macs": 2000, "effective_macs": 900}}
    assert rows({"stages": [stage]})[0][3] == "2 k (900 effective)"
    stage["metrics"] = {"macs": 2000}
    assert rows({"stages": [stage]})[0][3] == "2 k"
