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
def test_an_absent_store_has_no_runs_and_stays_absent(
    words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MCOMP_STORE", raising=False)
    assert main(words) == 0
    assert not any(tmp_path.iterdir())
    assert main([*words, "--store", str(tmp_path / "none")]) == 8
    assert not (tmp_path / "none").exists()


def test_report_without_a_run_says_what_to_do(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "store").mkdir()
    (tmp_path / "store" / "version").write_text("1\n")
    assert main(["report", "--store", str(tmp_path / "store")]) == 2
    assert "mcomp apply" in capsys.readouterr().err


def test_doctor_speaks_of_what_is_missing_without_failing(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert main(["doctor", "--json", "--store", str(tmp_path / "none")]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["packages"]["torch"]
    assert "tensorrt" in found["packages"]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--traceback", "apply", "x"], "`--traceback` is an option of `apply` and follows it"),
        (["--store", "d", "plan", "x"], "`--store` is an option of `plan` and follows it"),
    ],
)
def test_an_option_before_its_verb_is_told_where_it_belongs(
    words: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(words) == 2
    assert said in capsys.readouterr().err


def test_an_absent_recipe_is_named_in_json_and_for_github(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["validate", "absent.yaml", "--json"]) == 3
    assert json.loads(capsys.readouterr().out)["errors"][0]["file"] == "absent.yaml"
    assert main(["validate", "absent.yaml", "--format", "github"]) == 3
    assert capsys.readouterr().out.startswith("::error file=absent.yaml,title=MC101::")


@pytest.mark.parametrize(
    "words", [["plan", "my.yaml", "--store", "s"], ["gc", "--store", "x\x1b[31m"], ["verify", "--store", "x\x1b[31m"]]
)
def test_nothing_of_a_recipe_or_a_path_drives_the_terminal(
    words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("my.yaml").write_text(
        "version: 1\nmodel: {name: lenet}\ndata: {name: digits, image_size: 16}\nstages: [train]\n"
        'metadata: {}\nsweep: {product: {metadata.x: ["\\e[31m", b]}}\n'
    )
    main(words)
    printed = capsys.readouterr()
    assert "\\x1b[31m" in printed.out + printed.err
    assert "\x1b" not in printed.out + printed.err


def test_validating_two_recipes_lends_neither_the_plug_ins_of_the_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    head = "version: 1\nmodel: {name: lenet}\ndata: {name: digits, image_size: 16}\n"
    file = ROOT / "recipes" / "custom_stage" / "clip_weights.py"
    Path("a.yaml").write_text(f"{head}plugins: [{file}]\nstages: [train, clip_weights]\n")
    Path("b.yaml").write_text(f"{head}stages: [train, clip_weights]\n")
    assert main(["validate", "a.yaml", "b.yaml", "--trust"]) == 3
    printed = capsys.readouterr()
    assert "a.yaml: valid" in printed.out
    assert "unknown stage `clip_weights`" in printed.err
