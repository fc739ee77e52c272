"""Faults that hid one another, edits that were lost, and runs that were mistaken for others."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from mcomp.errors import Diagnostic, UsageError
from mcomp.recipe import Recipe
from mcomp.recipe.diagnostics import Faults
from mcomp.recipe.tree import Mark, Source
from tests.unit.recipe.samples import HEAD, fault, faults, stages

PLUGIN = """\
from mcomp.stages import register
from mcomp.stages.base import Stage, StageOptions


@register
class Shrink(Stage):
    name = "shrink"

    class Options(StageOptions):
        pass

    def run(self, ctx, options):
        raise NotImplementedError
"""


@pytest.fixture
def plugin(tmp_path: Path) -> Path:
    file = tmp_path / "shrink.py"
    file.write_text(PLUGIN)
    return file


def test_no_number_of_warnings_hides_an_error() -> None:
    unused = ", ".join(f"v{number}: 1" for number in range(150))
    found = fault(f"{stages('train', 'prune: {ratio: 5}')}vars: {{{unused}}}\n")
    assert (found.code, found.line) == ("MC104", 6)


def test_no_number_of_errors_hides_a_warning_and_both_are_cut() -> None:
    found, other = Faults(), Faults()
    mark = Mark(Source("f", ""), 1, 1)
    for number in range(300):
        found.error("MC104", f"e{number}", mark)
        found.warning("MC108", f"w{number}", mark)
    for one in (*found.errors, *found.warnings):
        other.take(one)
    assert (len(found.errors), len(found.warnings)) == (len(other.errors), len(other.warnings)) == (100, 100)


def test_a_file_may_be_called_like_a_set() -> None:
    assert fault(stages("prune: {ratio: 5}"), name="--set #x.yaml").file == "--set #x.yaml"


@pytest.mark.parametrize("listed", ["train, shrink", "train"])
def test_a_plug_in_without_trust_is_one_fault_of_a_sweep(plugin: Path, listed: str) -> None:
    text = f"{HEAD}plugins: [{plugin}]\nstages: [{listed}]\nsweep: {{product: {{seed: [1, 2]}}}}\n"
    found = fault(text)
    assert (found.code, found.line) == ("MC114", 4)
    assert "sweep" not in found.hint
    assert len(Recipe.from_text(text, trust=True).variants) == 2


def test_the_plug_ins_of_one_recipe_are_no_stages_of_the_next(plugin: Path) -> None:
    own = f"{HEAD}plugins: [{plugin}]\nstages: [train, shrink]\n"
    for _ in range(2):
        assert Recipe.from_text(own, trust=True).stages[1].uses == "shrink"
        assert fault(stages("train", "shrink"), trust=True).code == "MC106"


def test_a_stage_that_a_neighbour_of_the_plug_in_registers_is_known_each_time(plugin: Path) -> None:
    plugin.rename(plugin.with_name("shrink_in_a_neighbour.py"))
    plugin.write_text("import shrink_in_a_neighbour  # noqa: F401\n")
    for _ in range(2):
        found = Recipe.from_text(f"{HEAD}plugins: [{plugin}]\nstages: [train, shrink]\n", trust=True)
        assert found.stages[1].uses == "shrink"


@pytest.mark.parametrize("path", ["stages[5].train.epochs", "stages.7.epochs"])
def test_a_sweep_past_the_last_stage_leads_nowhere(path: str) -> None:
    found = fault(f"{stages('train')}sweep: {{product: {{'{path}': [1, 2]}}}}\n")
    assert (found.code, found.column) == ("MC126", 20 + len("stages."))


@pytest.mark.parametrize("edit", ["drop: [bn_fuse]", "override: {train: {epochs: 2}}"])
def test_a_list_of_stages_that_is_a_variable_cannot_be_edited(edit: str) -> None:
    found = fault(f'{HEAD}vars: {{s: [train, bn_fuse]}}\nstages: "${{s}}"\n{edit}\n')
    assert (found.code, found.line, found.column) == ("MC124", 6, 1)
    assert "variable `s`" in found.message


def test_options_that_are_a_variable_cannot_be_overridden_but_gates_beside_them_can() -> None:
    text = stages("train", 'prune: "${o}"') + "vars: {o: {ratio: 0.5}}\n"
    found = fault(f"{text}override: {{prune: {{ratio: 0.6}}}}\n")
    assert (found.code, found.line, found.column) == ("MC124", 8, 20)
    assert Recipe.from_text(f"{text}override: {{prune: {{seed: 6}}}}\n").stages[1].seed == 6


def test_overrides_name_stages_by_the_ids_they_had_before() -> None:
    base = stages("train", "finetune")
    moved = Recipe.from_text(base + "override: {train: {id: finetune, epochs: 2}, finetune: {id: ft, epochs: 9}}\n")
    assert [(one.id, one.uses, one.options.epochs) for one in moved.stages] == [
        ("finetune", "train", 2),
        ("ft", "finetune", 9),
    ]
    swapped = Recipe.from_text(base + "override: {train: {id: finetune}, finetune: {id: train}}\n")
    assert [(one.id, one.uses) for one in swapped.stages] == [("finetune", "train"), ("train", "finetune")]


def test_a_misspelled_keyword_of_an_override_hides_no_other_fault() -> None:
    found = faults(stages("train", "prune: {ratio: 5}") + "override: {train: {seeed: 3}}\n")
    assert [one.code for one in found] == ["MC104", "MC103"]


def test_dropping_every_stage_is_said_at_the_drop() -> None:
    found = fault(stages("train") + "drop: [train]\n")
    assert (found.code, found.line) == ("MC124", 6)


@pytest.mark.parametrize(
    "sweep",
    [
        "product: {metadata.a.b: [2, 3], metadata: [{}, {}]}",
        "product: {model: [{name: lenet}, {name: nin}], model.num_classes: [10, 20]}",
        "zip: {stages.prune.ratio: [0.2, 0.3], 'stages[1]': [{prune: {ratio: 0.1}}, bn_fuse]}",
        "product: {stages.prune.ratio: [0.2, 0.3]}, zip: {'stages': [[train], [bn_fuse]]}",
    ],
)
def test_a_sweep_cannot_set_a_value_and_a_part_of_it(sweep: str) -> None:
    text = stages("train", "prune: {ratio: 0.4}") + f"metadata: {{a: {{b: 1}}}}\nsweep: {{{sweep}}}\n"
    found = fault(text)
    assert found.code == "MC125"
    assert "part of" in found.message


def test_a_variant_changed_further_is_the_same_run_whatever_its_values_are_equal_to() -> None:
    values = "[1, true, 1.0, .nan]"
    recipe = Recipe.from_text(
        stages("train") + f'vars: {{x: 0}}\nmetadata: {{x: "${{x}}"}}\nsweep: {{product: {{vars.x: {values}}}}}\n'
    )
    found = [one.with_set("seed=3").metadata["x"] for one in recipe.variants]
    assert [type(one) for one in found] == [int, bool, float, float]
    assert math.isnan(found[3])


def test_a_variant_is_no_run_of_another_sweep() -> None:
    variant = Recipe.from_text(stages("train") + "sweep: {product: {seed: [1, 2]}}\n").variants[0]
    with pytest.raises(UsageError, match="no run with `seed=1`") as caught:
        variant.with_set("sweep.product.seed=[7, 8]")
    assert caught.value.code == "MC127"


def test_a_path_given_with_set_stays_where_it_was_given(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    recipe = Recipe.from_text(stages("quantize", "trt_int8"), ["stages.trt_int8.output=x.bin"])
    (tmp_path / "below").mkdir()
    monkeypatch.chdir(tmp_path / "below")
    again = recipe.with_set("seed=1").with_set("stages.trt_int8.skip={cache_file: y.bin}")
    assert again.stages[1].options.output == str(tmp_path / "x.bin")
    assert again.stages[1].options.skip.cache_file == str(tmp_path / "below" / "y.bin")


@pytest.mark.parametrize("own", ["{seed: 5, cache: false}", "{seed: 7}", "{}"])
@pytest.mark.parametrize("other", ["{seed: null, cache: true}", "{seed: 3, cache: false}", "{}"])
def test_seed_and_cache_of_an_alternative_come_back_from_the_lock(own: str, other: str) -> None:
    beside, instead = own[1:-1], other[1:-1]
    entry = f"{{finetune: {{}}, when: {{backend: cuda}}, otherwise: {{train: {{}}, {instead}}}, {beside}}}"
    recipe = Recipe.from_text(stages("train", entry))
    again = Recipe.from_text(recipe.lock())
    for one, two in ((recipe.stages[1], again.stages[1]), (recipe.stages[1].otherwise, again.stages[1].otherwise)):
        assert not isinstance(one, str)
        assert not isinstance(two, str)
        assert (one.seed, one.cache) == (two.seed, two.cache)


def where(one: Diagnostic) -> tuple[int | None, int | None]:
    return one.line, one.column


def test_of_two_equal_ids_the_one_that_was_written_out_is_blamed() -> None:
    text = stages("train", "prune: {ratio: 0.4}") + "insert: [{after: train, stages: [{finetune: {}, id: prune}]}]\n"
    assert where(fault(text)) == (7, text.splitlines()[6].rindex("prune") + 1)


def test_of_two_ids_written_out_that_of_the_recipe_is_blamed_not_that_of_its_base(tmp_path: Path) -> None:
    (tmp_path / "base.yaml").write_text(stages("{train: {}, id: first}", "{finetune: {}, id: last}"))
    found = fault("extends: base.yaml\noverride: {first: {id: last}}\n", base_dir=tmp_path)
    assert (found.file, found.line) == ("<text>", 2)


def test_two_stages_on_one_line_are_told_apart_by_their_columns() -> None:
    found = fault(f"{HEAD}stages: [{{train: {{}}, id: a}}, {{finetune: {{}}, id: a}}]\n")
    assert "line 4, column 11 and line 4, column 31" in found.message


def test_a_culprit_that_comes_twice_is_to_be_removed_once() -> None:
    found = fault(stages("train", "bn_fuse", "prune: {ratio: 0.4}", "quantize", "bn_fuse"))
    assert found.hint == "remove `bn_fuse` (line 6): another one follows (line 9)"


def test_a_name_that_is_a_variable_counts_as_its_value_when_files_are_laid_over_one_another(tmp_path: Path) -> None:
    (tmp_path / "base.yaml").write_text(stages("train").replace("{name: nin}", "{name: lenet, num_classes: 7}"))
    over = 'extends: base.yaml\nmodel: {{name: "${{m}}"}}\nvars: {{m: {}}}\n'
    same = Recipe.from_text(over.format("lenet"), base_dir=tmp_path)
    other = Recipe.from_text(over.format("nin"), base_dir=tmp_path)
    assert (same.model_options.num_classes, other.model_options.num_classes) == (7, None)  # type: ignore[attr-defined]


def test_a_set_cannot_reach_into_a_list_that_is_not_there() -> None:
    found = fault(stages("train"), "stages.train.gates[0].metric=top1")
    assert (found.code, found.column) == ("MC110", len("stages.train.gates[") + 1)
    assert "`gates` is not given" in found.message


def test_a_device_called_gpu_is_cuda() -> None:
    found = fault(stages("train", "{finetune: {}, when: {device: gpu}}"))
    assert found.label == "did you mean `cuda`?"


def test_a_condition_with_a_fixed_limit_compares_with_nothing() -> None:
    found = fault(
        stages("{train: {}, when: {backend: cuda}}", "{finetune: {}, when: {stage: train, metric: top1, min: 1}}")
    )
    assert "compare" not in found.message + found.hint


def test_the_keys_of_a_recipe_are_all_listed() -> None:
    assert "`sweep`" in fault(stages("train") + "fooooo: 1\n").hint


def test_a_recipe_that_is_not_there_is_named_as_the_file(tmp_path: Path) -> None:
    from mcomp.errors import RecipeError

    with pytest.raises(RecipeError) as caught:
        Recipe.load(tmp_path / "absent.yaml")
    assert caught.value.diagnostics[0].file == str(tmp_path / "absent.yaml")


@pytest.mark.parametrize(
    ("edit", "said"),
    [
        ("drop: [finetune]", "`drop` (line 8) takes `finetune` out"),
        ("override: {finetune: {id: tuned}}", "`override` (line 8) gives `finetune` the id `tuned`"),
    ],
)
@pytest.mark.parametrize(
    "keyword",
    [
        "gates: [{metric: top1, max_drop: 1, vs: finetune}]",
        "from: finetune",
        "when: {stage: finetune, metric: top1, min: 1}",
    ],
)
def test_a_reference_to_a_stage_that_an_edit_took_away_names_the_edit(edit: str, said: str, keyword: str) -> None:
    text = stages("train", "finetune", f"{{train: {{}}, id: last, {keyword}}}") + f"{edit}\n"
    assert said in fault(text).hint


def test_a_misspelled_or_empty_plugins_does_not_make_its_stages_unknown(plugin: Path) -> None:
    text = f"{HEAD}plugin: [{plugin}]\nstages: [train, shrink]\n"
    assert fault(text, trust=True).label == "did you mean `plugins`?"
    assert fault(text.replace("plugin:", "plugins:"), "plugins=null", trust=True).code == "MC104"
