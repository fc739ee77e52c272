"""Whoever joins a search is told what became of it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from mcomp.cli.main import main
from mcomp.search.shared_study import open_study

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
