"""Which run `report` and `export` take, and that they say so."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from mcomp.cli.export_verb import needs_code
from mcomp.cli.main import main
from mcomp.cli.run_choice import chosen_run
from mcomp.errors import UsageError
from mcomp.store import Store

OLD, MIDDLE, NEW = (f"20260101T00000{n}000Z-net-0000000{n}" for n in (1, 2, 3))


def result(run: str, status: str) -> dict[str, Any]:
    return {"run": run, "name": "net", "status": status, "seconds": 1.0, "stages": []}


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """Three runs: one that ended well, one that failed, and one whose result is damaged."""
    root = tmp_path / "store"
    for run in (OLD, MIDDLE, NEW):
        (root / "runs" / run).mkdir(parents=True)
    (root / "version").write_text("1\n")
    (root / "runs" / OLD / "result.json").write_text(json.dumps(result(OLD, "ok")))
    (root / "runs" / MIDDLE / "result.json").write_text(json.dumps(result(MIDDLE, "failed")))
    (root / "runs" / NEW / "result.json").write_text("{")
    return Store(root)


def test_a_damaged_newest_run_is_named_where_the_one_before_is_shown(
    store: Store, capsys: pytest.CaptureFixture[str]
) -> None:
    assert chosen_run(store, None)["run"] == MIDDLE
    said = capsys.readouterr().err
    assert f"run {NEW} has a damaged `result.json`" in said
    assert f"this is {MIDDLE}" in said


def test_a_run_that_ended_well_is_preferred_and_the_others_are_named(
    store: Store, capsys: pytest.CaptureFixture[str]
) -> None:
    assert chosen_run(store, None, ended_well=True)["run"] == OLD
    assert f"run {MIDDLE} has the status `failed`; this is {OLD}" in capsys.readouterr().err


def test_a_damaged_run_that_is_asked_for_is_called_damaged(store: Store) -> None:
    with pytest.raises(UsageError, match="damaged"):
        chosen_run(store, NEW)


def add_run(store: Store, run: str, name: str, status: str = "ok") -> None:
    (store.root / "runs" / run).mkdir()
    (store.root / "runs" / run / "result.json").write_text(json.dumps({**result(run, status), "name": name}))


def test_a_recipes_whole_name_wins_over_ids_that_contain_it(store: Store) -> None:
    own, longer = (f"20260102T00000{n}000Z-{name}-0000000{n}" for n, name in ((4, "odd"), (5, "oddk")))
    add_run(store, own, "odd")
    add_run(store, longer, "oddk")
    assert chosen_run(store, "odd")["run"] == own
    assert chosen_run(store, "oddk")["run"] == longer
    with pytest.raises(UsageError, match="2 runs match `od`"):
        chosen_run(store, "od")


def test_of_several_runs_of_one_recipe_its_name_means_the_newest_and_says_so(
    store: Store, capsys: pytest.CaptureFixture[str]
) -> None:
    well, failed = (f"20260102T00000{n}000Z-odd-0000000{n}" for n in (4, 5))
    add_run(store, well, "odd")
    add_run(store, failed, "odd", "failed")
    assert chosen_run(store, "odd")["run"] == failed
    assert chosen_run(store, "odd", ended_well=True)["run"] == well
    assert f"note: of 2 runs of `odd` this is {failed}" in capsys.readouterr().err


def test_an_unfinished_run_that_is_asked_for_is_called_unfinished(store: Store) -> None:
    (store.root / "runs" / NEW / "result.json").unlink()
    with pytest.raises(UsageError, match="is not finished"):
        chosen_run(store, NEW[:20])


def test_a_report_takes_what_an_unfinished_run_has_done_and_says_that_it_is_unfinished(
    store: Store, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = store.root / "runs" / NEW
    (folder / "result.json").unlink()
    plan = [{"id": name, "uses": name} for name in ("train", "prune")]
    begun = {"event": "run_started", "time": 5.0, "name": "net", "plan": plan}
    (folder / "events.jsonl").write_text(json.dumps(begun) + '\n{"event": "stage_fin')
    found = chosen_run(store, NEW, unfinished=True)
    assert (found["run"], found["status"]) == (NEW, "unfinished")
    assert "is not finished; this is what it had done" in capsys.readouterr().err
    assert chosen_run(store, None, unfinished=True)["run"] == MIDDLE
    for run in (OLD, MIDDLE):
        (store.root / "runs" / run / "result.json").unlink()
    assert chosen_run(store, None, unfinished=True)["run"] == NEW
    (folder / "events.jsonl").unlink()
    with pytest.raises(UsageError, match="is not finished"):
        chosen_run(store, NEW, unfinished=True)


def test_a_store_without_runs_has_nothing_to_report(store: Store) -> None:
    shutil.rmtree(store.root / "runs")
    for wanted in (None, NEW):
        with pytest.raises(UsageError, match="no finished run"):
            chosen_run(store, wanted, unfinished=True)


@pytest.mark.parametrize("words", [["verify"], ["gc"], ["runs"], ["report"], ["export", "out"]])
@pytest.mark.parametrize("place", ["absent", "photos", "file"])
def test_a_verb_that_reads_a_store_says_where_there_is_none(
    words: list[str],
    place: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("photos").mkdir()
    Path("photos", "one.png").write_bytes(b"")
    Path("file").write_text("")
    assert main([*words, "--store", place]) == 8
    assert f"error[MC299]: there is no store at `{place}`" in capsys.readouterr().err
    assert [path.name for path in Path("photos").iterdir()] == ["one.png"]


@pytest.mark.parametrize(("name", "needs"), [("nets/mine.py:make", "`nets/mine.py`"), ("lenet", ""), (None, "")])
def test_an_export_names_the_code_that_its_network_needs(name: str | None, needs: str) -> None:
    assert needs_code({"builder": name and {"name": name, "kwargs": {}}}) == needs


def test_what_init_and_export_cannot_write_is_no_fault_of_a_store(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refuse(*_given: object, **_named: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("builtins.open", refuse)
    assert main(["init", str(tmp_path / "my.yaml")]) == 2
    said = capsys.readouterr().err
    assert "MC214" in said
    assert f"`{tmp_path}`" in said
    assert "store" not in said
