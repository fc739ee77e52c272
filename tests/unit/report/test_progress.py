"""What is shown while a run goes on, outside of the command line."""

from __future__ import annotations

import io
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from mcomp.engine import display
from mcomp.errors import UsageError
from mcomp.report import progress
from mcomp.report.notebook import NotebookProgress, in_notebook
from mcomp.report.progress import PlainLines, terminal_progress
from tests.unit.report.run_events import run_events


class FakeKernel:
    """As much of IPython as a notebook's display needs; keeps every state of every cell."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, kernel: object = object()) -> None:
        self.cells: list[list[str]] = []
        ipython, shown = ModuleType("IPython"), ModuleType("IPython.display")
        ipython.get_ipython = lambda: SimpleNamespace(kernel=kernel)  # type: ignore[attr-defined]
        shown.HTML = str  # type: ignore[attr-defined]
        shown.display = self._display  # type: ignore[attr-defined]
        ipython.display = shown  # type: ignore[attr-defined]
        monkeypatch.setitem(sys.modules, "IPython", ipython)
        monkeypatch.setitem(sys.modules, "IPython.display", shown)

    def _display(self, html: str, *, display_id: bool) -> Any:
        cell = [html]
        self.cells.append(cell)
        return SimpleNamespace(update=cell.append)


def test_a_notebook_redraws_one_table_a_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kernel = FakeKernel(monkeypatch)
    with progress.display(None) as (listener,):
        for run in ("one", "two"):
            for event in run_events(tmp_path, run=run):
                listener(event)
    assert len(kernel.cells) == 2
    assert any("epoch 1/2, step 3/9, loss 0.7000" in state for state in kernel.cells[0])
    assert "<td>finetune</td><td>run, 1.0 s: top-1 96.50 %, 600 params</td>" in kernel.cells[0][-1]
    assert "run two: ok" in kernel.cells[1][-1]


def test_a_notebook_shows_the_text_of_a_recipe_as_text(monkeypatch: pytest.MonkeyPatch) -> None:
    FakeKernel(monkeypatch)
    shown = NotebookProgress()
    shown({"event": "notice", "stage": None, "text": "<script>x</script>\x1b[31m"})
    assert "&lt;script&gt;" in shown.html()
    assert "<script>" not in shown.html()
    assert "\x1b" not in shown.html()


def test_a_terminal_s_ipython_is_no_notebook(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "IPython", SimpleNamespace(get_ipython=lambda: SimpleNamespace()))
    assert not in_notebook()
    monkeypatch.setitem(sys.modules, "IPython", SimpleNamespace(get_ipython=lambda: None))
    assert not in_notebook()


@pytest.mark.parametrize(("wanted", "lines"), [(None, 0), (True, 8)])
def test_elsewhere_progress_is_shown_on_request(
    wanted: bool | None, lines: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with progress.display(wanted) as listeners:
        for event in run_events(tmp_path):
            for listener in listeners:
                listener(event)
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.count("\n") == lines


def test_bars_say_the_same_lines_and_leave_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    screens = []
    for bars in (True, False):
        monkeypatch.setattr(sys, "stderr", Terminal())
        monkeypatch.setenv("TERM", "dumb")
        with terminal_progress(bars=bars) as listener:
            assert isinstance(listener, PlainLines) != bars
            for event in run_events(tmp_path, run=f"r{bars}".ljust(6)):
                listener(event)
        screens.append([line for line in sys.stderr.getvalue().splitlines() if "epoch 2/2" in line])  # type: ignore[attr-defined]
    assert screens[0] == screens[1] != []


def test_progress_that_nothing_can_show_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(display, "_installed", None)
    with pytest.raises(UsageError, match="from mcomp import Engine"), display.listeners(True):
        pass
    with display.listeners(None) as shown:
        assert list(shown) == []


def test_the_engine_of_the_public_door_comes_with_a_display(monkeypatch: pytest.MonkeyPatch) -> None:
    import mcomp

    monkeypatch.setattr(display, "_installed", None)
    assert mcomp.Engine is not None
    with display.listeners(True) as shown:
        assert [type(one).__name__ for one in shown] == ["PlainLines"]
    with display.listeners(False) as shown:
        assert list(shown) == []
