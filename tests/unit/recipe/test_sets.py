from __future__ import annotations

from pathlib import Path

import pytest

from mcomp.recipe import Recipe
from mcomp.recipe.diagnostics import render
from tests.unit.recipe.samples import FLAGSHIP, HEAD, fault, faults, place, stages


def options(*sets: str, text: str = FLAGSHIP) -> list[dict[str, object]]:
    return [stage.options.model_dump() for stage in Recipe.from_text(text, sets).stages]


@pytest.mark.parametrize(
    ("text", "stage", "option", "value"),
    [
        ("vars.ratio=0.5", 2, "ratio", 0.5),
        ("stages.prune.ratio=0.5", 2, "ratio", 0.5),
        ("stages.prune.prune.ratio=0.5", 2, "ratio", 0.5),
        ("stages[2].prune.ratio=0.5", 2, "ratio", 0.5),
        ("stages[2].ratio=0.5", 2, "ratio", 0.5),
        ("stages.2.ratio=0.5", 2, "ratio", 0.5),
        ('["stages"]["prune"]["ratio"]=0.5', 2, "ratio", 0.5),
        ("stages.prune.ratio=  0.5  # half", 2, "ratio", 0.5),
        ("stages.train.lr=1e-3", 0, "lr", 0.001),
        ("stages.train.milestones=[0.25, 0.75]", 0, "milestones", [0.25, 0.75]),
        ("stages.train={train: {epochs: 9}}", 0, "epochs", 9),
        ("stages.bn_fuse.tolerance=1e-2", 5, "tolerance", 0.01),
        ("stages.quantize.epochs=${ratio}", 4, "epochs", None),
    ],
)
def test_a_value_is_set_where_the_path_leads(text: str, stage: int, option: str, value: object) -> None:
    if value is None:
        assert fault(FLAGSHIP, text).message == "`epochs` must be a whole number, got 0.4"
    else:
        assert options(text)[stage][option] == value


def test_a_nested_option_that_is_not_written_yet_is_made() -> None:
    assert options("stages.trt_int8.calibration.samples=7", text=stages("quantize", "trt_int8"))[1]["calibration"] == {
        "method": "minmax", "samples": 7, "cache_file": None,
    }  # fmt: skip


def test_engine_keywords_and_gates_are_reached_through_the_stage() -> None:
    recipe = Recipe.from_text(
        FLAGSHIP, ["stages.prune.gates[0].max_ratio=0.9", "stages.bn_fuse.seed=3", "stages.train.id=base"]
    )
    assert recipe.stages[2].gates[0].max_ratio == 0.9
    assert recipe.stages[5].seed == 3
    assert recipe.stages[0].id == "base"


def test_top_level_and_sections_can_be_set() -> None:
    recipe = Recipe.from_text(
        FLAGSHIP, ["seed=5", "data.batch_size=32", "device=cuda:1", "metadata.who=me", "data={name: digits}"]
    )
    assert (recipe.seed, recipe.device, recipe.metadata) == (5, "cuda:1", {"who": "me"})
    assert recipe.data.batch_size == 64  # type: ignore[attr-defined]


def test_later_sets_win() -> None:
    assert Recipe.from_text(FLAGSHIP, ["seed=5", "seed=6"]).seed == 6


@pytest.mark.parametrize(
    ("text", "column", "length", "message", "label"),
    [
        ("seed", 5, 1, "`seed` is not `path=value`", ""),
        ("=3", 1, 1, "`=3` is not `path=value`", ""),
        ("", 1, 1, "`` is not `path=value`", ""),
        ("vars.ratoi=1", 6, 5, "the recipe has no variable `ratoi`", "did you mean `ratio`?"),
        ("stages.prun.ratio=1", 8, 4, "no stage has the id `prun`", "did you mean `prune`?"),
        ("stages[9].ratio=1", 8, 1, "there is no stage 9; the last of 7 is 6", ""),
        ("stages.prune.gates[3].max=1", 20, 1, "`3` is no place in `gates`, which has 1 items", ""),
        ("seed.x=1", 6, 1, "`seed` is a single value; it holds no `x`", ""),
        ("stages.prune.ratoi=0.1", 14, 5, "unknown option `ratoi` for stage `prune`", "did you mean `ratio`?"),
        ("data.batchsize=3", 6, 9, "unknown option `batchsize` for data set `digits`", "did you mean `batch_size`?"),
        ("sed=3", 1, 3, "unknown key `sed` for a recipe", "did you mean `seed`?"),
        ("stages.prune.ratio=1.5", 20, 3, "`ratio` must be greater than 0 and less than 1, got 1.5", ""),
        ("vars.ratio=1.5", 12, 3, "`ratio` must be greater than 0 and less than 1, got 1.5", ""),
        ('seed="5"', 6, 3, '`seed` must be at least 0, got the text "5"', ""),
        ("name=a: b", 6, 1, "the value must be a single value", ""),
        ("name=[1", 6, 1, "`[` is never closed", ""),
        ("data.name=digts", 11, 5, "unknown data set `digts`", "did you mean `digits`?"),
        ("stages.prune.when=x", 19, 1, "`when` ", ""),
    ],
)
def test_a_fault_of_a_set_points_into_its_own_text(
    text: str, column: int, length: int, message: str, label: str
) -> None:
    found = fault(FLAGSHIP, "name=fine", text)
    assert found.file == "--set #2"
    assert (found.column, found.label) == (column, label)
    assert message in found.message or "whole number" in found.message
    if label:
        assert place(found) == (1, column, length)


def test_the_fault_of_a_variable_says_where_it_is_used() -> None:
    assert "the value is used at <text>:10:20" in render([fault(FLAGSHIP, "vars.ratio=1.5")])


def test_a_variable_that_a_set_makes_superfluous_is_not_called_unused() -> None:
    assert Recipe.from_text(FLAGSHIP, ["stages.prune.ratio=0.5"]).warnings == []


def test_paths_of_the_recipe_start_at_the_recipe_and_those_of_a_set_at_the_current_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home, here = tmp_path / "home", tmp_path / "here"
    home.mkdir()
    here.mkdir()
    monkeypatch.chdir(here)
    file = home / "r.yaml"
    file.write_text(
        stages("quantize", "trt_int8: {output: a.plan}").replace("{name: nin}", "{name: nin, weights: w.pt}")
    )
    recipe = Recipe.load("../home/r.yaml")
    assert recipe.base_dir.resolve() == home
    assert recipe.model.weights == "w.pt"
    output = recipe.stages[1].options.output
    assert Path(output).is_absolute(), "a stage knows no recipe that a path could be relative to"
    assert Path(output).resolve() == home / "a.plan"
    other = Recipe.load(file, ["model.weights=v.pt", "stages.trt_int8.output=b.plan"])
    assert (other.model.weights, other.stages[1].options.output) == (str(here / "v.pt"), str(here / "b.plan"))
    locked = Recipe.from_text(recipe.lock(), base_dir=here)
    assert Path(str(locked.model.weights)).resolve() == home / "w.pt"


def test_faults_of_the_recipe_come_before_those_of_sets() -> None:
    found = faults(FLAGSHIP.replace("regular: 8", "regular: 0"), "seed=-1")
    assert [one.file for one in found] == ["<text>", "--set #1"]


@pytest.mark.parametrize("text", ["\r", "seed=1\r", "metadata.a=x\x85y", "name=\n- a", "seed\u2028=1"])
def test_a_set_of_several_lines_is_refused_where_its_first_line_ends(text: str) -> None:
    found = fault(FLAGSHIP, text)
    assert (found.code, found.line) == ("MC110", 1)
    assert found.column == len(found.source_line) + 1
    assert "line break" in found.message


@pytest.mark.parametrize("steps", [51, 5000, 100_000])
def test_a_path_of_more_steps_than_a_recipe_has_levels_is_refused(steps: int) -> None:
    found = fault(FLAGSHIP, "metadata" + ".a" * (steps - 1) + "=1")
    assert found.code == "MC110"
    assert found.message.endswith("a path has at most 50 steps")


def test_a_path_of_as_many_steps_as_a_recipe_has_levels_is_followed() -> None:
    assert Recipe.from_text(FLAGSHIP, ["metadata" + ".a" * 49 + "=1"]).metadata["a"]["a"]


@pytest.mark.parametrize(
    ("line", "path"),
    [("metadata: some words", "metadata.note"), ("vars: 3", "vars.x"), ("data: digits", "data.batch_size")],
)
def test_a_set_below_a_section_of_the_wrong_form_adds_no_second_fault(line: str, path: str) -> None:
    key = line.partition(":")[0]
    rest = [one for one in stages("train").splitlines() if not one.startswith(f"{key}:")]
    found = fault("\n".join([line, *rest]), f"{path}=1")
    assert (found.code, found.line, found.file) == ("MC104", 1, "<text>")


def test_a_set_below_stages_that_are_no_list_adds_no_second_fault() -> None:
    assert fault(HEAD + "stages: true\n", "stages.train.epochs=1").code == "MC104"


def test_a_set_of_more_stages_than_a_recipe_may_have_is_one_fault() -> None:
    found = fault(FLAGSHIP, f"stages=[{'train, ' * 1500}]")
    assert (found.code, found.file) == ("MC123", "--set #1")
    assert "more than 256" in found.message
    Recipe.from_text(stages("train"), [f"stages=[{'train, ' * 256}]"])
