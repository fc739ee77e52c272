"""``mcomp validate``: one recipe or several, for people, machines and pull requests."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from mcomp.cli.main import main
from mcomp.recipe import Recipe

GOOD = "version: 1\nmodel: {name: lenet}\ndata: {name: digits}\nstages:\n  - train: {epochs: 1}\n"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "good.yaml").write_text(GOOD)
    (tmp_path / "warned.yaml").write_text(GOOD + "vars: {a: 1}\n")
    (tmp_path / "bad.yaml").write_text(GOOD.replace("epochs", "epohcs"))
    (tmp_path / "base.yml").write_text(GOOD.replace("epochs", "epohcs"))
    for name in ("one", "two"):
        (tmp_path / f"{name}.yaml").write_text(f"extends: base.yml\nname: {name}\n")
    return tmp_path


@pytest.mark.usefixtures("folder")
def test_one_recipe_for_machines_has_the_shape_of_the_design(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["validate", "bad.yaml", "--json"]) == 3
    found = json.loads(capsys.readouterr().out)
    assert found.keys() == {"errors", "warnings"}
    assert found["errors"][0].keys() == {"code", "message", "file", "line", "column", "hint"}
    assert main(["validate", "bad.yaml", "--format", "json"]) == 3
    assert json.loads(capsys.readouterr().out) == found


@pytest.mark.usefixtures("folder")
def test_several_recipes_for_machines_are_listed_in_order(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["validate", "good.yaml", "bad.yaml", "warned.yaml", "--json"]) == 3
    found = json.loads(capsys.readouterr().out)["files"]
    assert [one["file"] for one in found] == ["good.yaml", "bad.yaml", "warned.yaml"]
    assert [(len(one["errors"]), len(one["warnings"])) for one in found] == [(0, 0), (1, 0), (0, 1)]


@pytest.mark.usefixtures("folder")
def test_several_recipes_for_people_end_in_one_count(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["validate", "good.yaml", "bad.yaml", "warned.yaml"]) == 3
    printed = capsys.readouterr()
    assert printed.out == "good.yaml: valid, 1 stage\nwarned.yaml: valid, 1 stage\n"
    assert printed.err.endswith("\n1 error, 1 warning; nothing was run\n")


@pytest.mark.usefixtures("folder")
def test_a_fault_of_a_base_that_two_recipes_share_is_said_once(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["validate", "one.yaml", "two.yaml"]) == 3
    assert capsys.readouterr().err.count("error[MC103]") == 1


@pytest.mark.usefixtures("folder")
def test_a_pull_request_gets_an_annotation_per_fault(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["validate", "bad.yaml", "warned.yaml", "--format", "github"]) == 3
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 2
    assert lines[0].startswith("::error file=bad.yaml,line=5,col=13")
    assert lines[1].startswith("::warning file=warned.yaml,line=6")


@pytest.mark.usefixtures("folder")
def test_a_valid_recipe_gives_a_pull_request_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["validate", "good.yaml", "--format", "github"]) == 0
    assert capsys.readouterr().out == ""


def test_a_sweep_says_how_many_runs_it_has(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "sweep.yaml").write_text(GOOD + "sweep: {product: {seed: [0, 1], stages.train.epochs: [1, 2]}}\n")
    assert main(["validate", "sweep.yaml"]) == 0
    assert capsys.readouterr().out == "sweep.yaml: valid, 1 stage, 4 runs\n"


def test_a_missing_recipe_is_asked_for_once(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["validate"]) == 2
    assert "`mcomp validate` needs RECIPE\n" in capsys.readouterr().err


@pytest.mark.usefixtures("folder")
@pytest.mark.parametrize("words", [["--json"], ["--format", "json"]])
def test_an_internal_bug_is_json_for_machines_too(
    words: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def broken(*_words: object, **_options: object) -> None:
        raise RuntimeError("a bug")

    monkeypatch.setattr(Recipe, "load", broken)
    assert main(["validate", "good.yaml", *words]) == 1
    found = json.loads(capsys.readouterr().out)
    assert found["exit_code"] == 1
    assert [error["code"] for error in found["errors"]] == ["MC000"]
