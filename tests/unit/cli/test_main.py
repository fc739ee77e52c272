from __future__ import annotations

import json
from pathlib import Path

import pytest

from mcomp import __version__
from mcomp.cli.main import VERBS, main
from mcomp.cli.stages_verb import describe
from mcomp.stages import names
from tests.conftest import ROOT, run_mcomp


def test_help_names_every_verb(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--help"]) == 0
    printed = capsys.readouterr().out
    assert all(verb in printed for verb in VERBS)


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_explains_itself(verb: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([verb, "--help"]) == 0
    assert f"mcomp {verb}" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "code", "advice"),
    [
        (["nonsense"], "MC295", "`mcomp --help` lists the verbs"),
        (["aply", "x.yaml"], "MC295", "did you mean `apply`?"),
        (["Apply", "x.yaml"], "MC295", "did you mean `apply`?"),
        (["apply", "--nonsense", "x.yaml"], "MC296", "`mcomp apply --help` lists its options"),
        (["apply", "--stroe", "x", "x.yaml"], "MC296", "did you mean `--store`?"),
        (["apply", "--stor=x", "x.yaml"], "MC296", "did you mean `--store`?"),
        (["runs", "-q"], "MC296", "`mcomp runs --help` lists its options"),
        (["--vresion"], "MC296", "did you mean `--version`?"),
        (["apply"], "MC297", "needs RECIPE"),
        (["apply", "x", "--set"], "MC297", "`--set` needs a value"),
        (["plan", "x", "y"], "MC297", "has no place for `y`"),
        (["validate", "x", "--format", "xml"], "MC297", "human"),
        (["apply", "\x1b[31m"], "MC101", "\\x1b[31m"),
    ],
)
def test_wrong_words_are_explained(
    words: list[str], code: str, advice: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(words) == (3 if code == "MC101" else 2)
    printed = capsys.readouterr().err
    assert f"error[{code}]: " in printed
    assert advice in printed


def test_wrong_words_are_json_for_machines(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["apply", "x.yaml", "--stroe", "x", "--json"]) == 2
    found = json.loads(capsys.readouterr().out)
    assert found["status"] == "refused"
    assert found["exit_code"] == 2
    assert found["errors"][0]["code"] == "MC296"


def test_no_words_at_all_are_the_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 0
    assert "verbs:" in capsys.readouterr().out


def test_what_follows_two_dashes_is_no_option(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["validate", "--", "--my.yaml"]) == 3
    assert "there is no file `--my.yaml`" in capsys.readouterr().err


def test_version_is_the_package_s(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"mcomp {__version__}\n"


def test_a_typo_in_a_stage_name_gets_a_suggestion(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["stages", "prine"]) == 2
    assert "did you mean `prune`?" in capsys.readouterr().err


@pytest.mark.parametrize("name", names())
def test_every_option_of_every_stage_has_a_description(name: str) -> None:
    described = describe(name)
    assert described["summary"].endswith(".")
    assert all(option["description"] for option in described["options"]), described["options"]


def test_init_writes_a_recipe_that_validates(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    recipe = tmp_path / "my.yaml"
    assert main(["init", str(recipe)]) == 0
    assert main(["validate", str(recipe)]) == 0
    assert main(["init", str(recipe)]) == 2
    assert "--force" in capsys.readouterr().err


@pytest.mark.parametrize("recipe", sorted((ROOT / "recipes").rglob("*.yaml")), ids=lambda path: path.stem)
def test_every_shipped_recipe_validates(recipe: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["validate", str(recipe), "--json", "--trust"]) == 0
    assert json.loads(capsys.readouterr().out)["errors"] == []


def test_the_shipped_schema_is_the_one_the_code_makes() -> None:
    made = run_mcomp("schema")  # in a process of its own: other tests have registered plug-ins in this one
    shipped = json.loads((ROOT / "recipes" / "recipe.schema.json").read_text())
    assert shipped == json.loads(made.stdout), "run `mcomp schema --write recipes/recipe.schema.json`"


@pytest.mark.parametrize("words", [["runs"], ["runs", "--json"]])
def test_an_absent_store_has_no_runs_and_stays_absent(words: list[str], tmp_path: Path) -> None:
    assert main([*words, "--store", str(tmp_path / "none")]) == 0
    assert not (tmp_path / "none").exists()


def test_report_without_a_run_says_what_to_do(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["report", "--store", str(tmp_path / "none")]) == 2
    assert "mcomp apply" in capsys.readouterr().err


def test_doctor_speaks_of_what_is_missing_without_failing(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert main(["doctor", "--json", "--store", str(tmp_path / "none")]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["packages"]["torch"]
    assert "tensorrt" in found["packages"]
