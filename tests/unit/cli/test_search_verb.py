"""Whoever joins a search is told what became of it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from mcomp.cli.main import main
from mcomp.search import shared_study
from mcomp.search.shared_study import JoinedWorkers, open_study
from mcomp.search.study import Task, Trial
from mcomp.stages.searching.setup import SearchSetup

pytest.importorskip("optuna")


@pytest.fixture
def address(tmp_path: Path) -> str:
    return str(tmp_path / "search.journal")


def test_a_search_that_has_ended_says_so_though_its_setup_is_gone(
    address: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shared = open_study(address, make=True)
    shared.claim("mine", tmp_path / "gone")
    shared.finish()
    assert main(["search", "--join", address]) == 0
    assert "the search has ended" in capsys.readouterr().out
    assert main(["search", "--join", address, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert {name: found[name] for name in ("tried", "counted", "done")} == {"tried": 0, "counted": 0, "done": True}


class Ready:
    """In place of a setup."""

    study = "mine"

    def evaluator(self) -> Callable[[Task], Trial]:
        return lambda task: task.trial(50.0, 40.5)


def test_each_look_is_told_in_words(
    address: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shared_study, "_POLL", 0.02)
    monkeypatch.setattr(SearchSetup, "read", lambda *_, **__: Ready())
    shared = open_study(address, make=True)
    shared.claim("mine", tmp_path / "setup")
    tasks = [Task(0, "proxy", (1, 0.5)), Task(0, "full", (1, 0.5))]
    assert list(JoinedWorkers(shared).results(tasks, iter([False, True]).__next__)) == []  # published
    assert main(["search", "--join", address, "--wait", "0.1"]) == 0
    printed = capsys.readouterr()
    assert printed.err.splitlines() == ["candidate 0, cheap look: 50.00 %", "candidate 0, close look: 50.00 %"]
    assert "2 looks at candidates" in printed.out
