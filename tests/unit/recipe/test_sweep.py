from __future__ import annotations

from itertools import product
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mcomp.errors import UsageError
from mcomp.recipe import Recipe
from mcomp.recipe.diagnostics import Faults
from mcomp.recipe.loader import parse
from mcomp.recipe.lock import flow
from mcomp.recipe.sets import apply_sets
from mcomp.recipe.sweep import MAX_POINTS, take_sweep
from mcomp.recipe.tree import MapNode, Node, Source
from tests.unit.recipe.samples import FLAGSHIP, fault, faults, place, stages

SWEEP = """\
sweep:
  product: {"vars.ratio": [0.3, 0.5], stages.quantize.w_bits: [8, 4, 2]}
  zip: {seed: [1, 2], 'stages[0].epochs': [3, 4]}
"""


def swept(text: str, *sets: str, base: str = FLAGSHIP) -> Recipe:
    return Recipe.from_text(base + text, sets)


def test_a_sweep_is_every_combination_of_the_product_with_every_pair() -> None:
    recipe = swept(SWEEP)
    assert [list(one.sweep_values.values()) for one in recipe.variants] == [
        [ratio, bits, seed, seed + 2] for ratio, bits, seed in product([0.3, 0.5], [8, 4, 2], [1, 2])
    ]
    for one in recipe.variants:
        ratio, bits, seed, epochs = one.sweep_values.values()
        train, _, prune, _, quantize, *_ = one.stages
        assert (prune.options.ratio, quantize.options.w_bits, one.seed, train.options.epochs) == (
            ratio,
            bits,
            seed,
            epochs,
        )
        assert (one.name, one.variants) == ("nin_gc_prune_quant", ())


def test_the_recipe_itself_is_the_first_run_and_says_no_values() -> None:
    recipe = swept(SWEEP)
    assert (recipe.seed, recipe.stages[4].options.w_bits, recipe.sweep_values) == (1, 8, {})
    assert list(recipe.variants[0].sweep_values) == [
        "vars.ratio", "stages.quantize.w_bits", "seed", "stages[0].epochs",
    ]  # fmt: skip


@pytest.mark.parametrize("text", ["sweep:\n", "sweep: {}\n", "sweep: {product: {}}\n", "sweep: {zip: null}\n"])
def test_an_empty_sweep_is_none(text: str) -> None:
    assert swept(text).variants == ()


def test_a_whole_stage_a_mapping_and_a_variable_can_be_swept() -> None:
    recipe = swept(
        "sweep: {zip: {stages.finetune: [finetune, {train: {epochs: 2}, id: finetune}], "
        'stages.trt_int8.calibration: [null, {samples: 3}], stages.train.lr: ["${ratio}", 0.1]}}\n'
    )
    one, two = recipe.variants
    assert (one.stages[3].uses, two.stages[3].uses) == ("finetune", "train")
    assert (one.stages[6].options.calibration, two.stages[6].options.calibration.samples) == (None, 3)
    assert (one.stages[0].options.lr, two.stages[0].options.lr) == (0.4, 0.1)


def test_an_inherited_sweep_is_replaced_as_a_whole_or_taken_away(tmp_path: Path) -> None:
    (tmp_path / "base.yaml").write_text(FLAGSHIP + SWEEP)

    def load(text: str) -> Recipe:
        return Recipe.from_text("extends: base.yaml\n" + text, base_dir=tmp_path)

    assert len(load("").variants) == 12
    assert [one.seed for one in load("sweep: {product: {seed: [5, 6]}}\n").variants] == [5, 6]
    assert load("sweep: null\n").variants == ()


def test_a_path_in_a_swept_value_is_relative_to_the_file_that_holds_it(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "base.yaml").write_text(FLAGSHIP + "sweep: {product: {stages.trt_int8.output: [a, b]}}\n")
    recipe = Recipe.from_text("extends: sub/base.yaml\n", base_dir=tmp_path)
    assert [one.stages[6].options.output for one in recipe.variants] == [str(tmp_path / "sub" / x) for x in "ab"]


@pytest.mark.parametrize("path", ["vars.ratio", '["vars"]["ratio"]'])
def test_a_set_takes_the_place_of_the_values_that_the_sweep_has(path: str) -> None:
    recipe = swept(SWEEP, f"{path}=0.2")
    assert len(recipe.variants) == 6
    assert {one.stages[2].options.ratio for one in recipe.variants} == {0.2}
    (warning,) = recipe.warnings
    assert (warning.code, warning.file, warning.column) == ("MC127", "--set #1", 1 if path[0] == "v" else 3)
    assert "`vars.ratio` one value" in warning.message


@pytest.mark.parametrize("path", ["stages.train.epochs", "stages[0].epochs", "stages.0.train.epochs"])
def test_a_swept_path_is_known_in_every_spelling(path: str) -> None:
    recipe = swept(SWEEP, f"{path}=9")
    assert [one.seed for one in recipe.variants] == [1, 2] * 6
    assert {one.stages[0].options.epochs for one in recipe.variants} == {9}


def test_a_set_of_what_the_sweep_then_replaces_is_refused() -> None:
    text = "sweep: {product: {stages.finetune: [finetune, {train: {epochs: 2}}]}}\n"
    found = fault(FLAGSHIP + text, "stages.finetune.epochs=3")
    assert (found.code, found.file, found.column) == ("MC110", "--set #1", 1)
    assert "which the sweep then replaces" in found.message


def test_a_sweep_can_be_changed_and_taken_away_by_a_set() -> None:
    assert swept(SWEEP, "sweep=null").variants == ()
    assert len(swept(SWEEP, 'sweep.product["vars.ratio"]=[0.1]').variants) == 6
    assert len(swept("", "sweep={product: {seed: [1, 2, 3]}}").variants) == 3


def test_every_run_has_a_lock_and_the_sweep_has_none() -> None:
    recipe = swept(SWEEP)
    for one in recipe.variants:
        again = Recipe.from_text(one.lock())
        assert again.lock().partition("\n")[2] == one.lock().partition("\n")[2]
    with pytest.raises(UsageError) as caught:
        recipe.lock()
    assert (caught.value.code, "12 runs" in caught.value.message) == ("MC129", True)


def test_with_set_of_a_run_is_the_same_run_with_another_value() -> None:
    run = swept(SWEEP).variants[7]
    changed = run.with_set("stages.finetune.epochs=9")
    assert (changed.sweep_values, changed.variants) == (run.sweep_values, ())
    assert (changed.seed, changed.stages[3].options.epochs) == (run.seed, 9)
    other = run.with_set("vars.ratio=0.1")
    assert (other.stages[2].options.ratio, other.stages[4].options.w_bits) == (0.1, run.stages[4].options.w_bits)
    assert len(swept(SWEEP).with_set("seed=3").variants) == 12


def test_a_variable_that_only_the_sweep_makes_superfluous_is_not_called_unused() -> None:
    assert swept("sweep: {product: {stages.prune.ratio: [0.1, 0.2]}}\n").warnings == []
    assert (
        swept('sweep: {product: {seed: [1, 2]}}\nvars: {a: 1}\nmetadata: {a: "${a}"}\n', base=stages("train")).warnings
        == []
    )


def test_a_warning_of_every_run_is_told_once() -> None:
    text = stages("prune: {ratio: 0.4, regular: 3}") + "sweep: {product: {seed: [1, 2, 3]}}\n"
    recipe = Recipe.from_text(text)
    assert [one.message for one in recipe.warnings] == ["three is odd"]
    assert [len(one.warnings) for one in recipe.variants] == [1, 1, 1]


@pytest.mark.parametrize(
    ("text", "code", "place_", "message", "label"),
    [
        ('{product: {"vars.ratoi": [0.3]}}', "MC126", (17, 25, 5), "no variable `ratoi`", "did you mean `ratio`?"),
        ("{product: {stages.prun.ratio: [0.3]}}", "MC126", (17, 26, 4), "no stage has the id", "did you mean `prune`?"),
        ("{product: {stages.prune.ratoi: [0.3]}}", "MC103", (17, 32, 5), "unknown option", "did you mean `ratio`?"),
        ("{product: {sed: [0.3, 1]}}", "MC103", (17, 19, 3), "unknown key `sed`", "did you mean `seed`?"),
        ("{product: {vars.ratio: [0.3, 7, 0.5]}}", "MC104", (17, 37, 1), "must be greater than 0 and less", ""),
        ("{product: {stages.prune.ratio: [0.3, x]}}", "MC104", (17, 45, 1), "`ratio` must be a number", ""),
        ("{zip: {seed: [1, 2], vars.ratio: [0.3]}}", "MC125", (17, 41, 1), "`seed` has 2, `vars.ratio` has 1", ""),
        ("{product: {seed: []}}", "MC125", (17, 25, 1), "no value for `seed`", ""),
        ("{product: {seed: 3}}", "MC104", (17, 25, 1), "a sweep needs a list of values for `seed`", ""),
        ("{prodct: {seed: [1]}}", "MC103", (17, 9, 6), "unknown key `prodct` in `sweep`", "did you mean `product`?"),
        ("{seed: [1]}", "MC103", (17, 9, 4), "unknown key `seed` in `sweep`", ""),
        ("[1]", "MC104", (17, 8, 1), "`sweep` must be a mapping with `product` or `zip`", ""),
        ("{zip: [1]}", "MC104", (17, 14, 1), "`zip` must be a mapping from paths to lists", ""),
        (
            "{product: {seed: [1]}, zip: {seed: [2]}}",
            "MC125",
            (17, 37, 4),
            "sets `seed` twice; the first is on line 17",
            "",
        ),
        ("{product: {stages.prune.ratio: [1]}, zip: {stages.2.ratio: [2]}}", "MC125", (17, 51, 14), "twice", ""),
        ("{product: {version: [1]}}", "MC126", (17, 19, 7), "`version` is the same for all runs", ""),
        ("{product: {sweep.zip: [1]}}", "MC126", (17, 19, 5), "`sweep` is the same for all runs", ""),
        ('{product: {"seed=": [1]}}', "MC126", (17, 24, 1), "`seed=` is no path to a value", ""),
        ('{product: {"": [1]}}', "MC126", (17, 19, 2), "`` is no path to a value", ""),
        ('{product: {"q\\x41": [1]}}', "MC103", (17, 19, 7), "unknown key `qA`", ""),
        (
            "{product: {seed: [" + "1, " * 501 + "], data.batch_size: [1, 2]}}",
            "MC125",
            (17, 1, 5),
            "1002 runs; at most",
            "",
        ),
    ],
)
def test_one_mistake_is_one_fault_where_it_is(
    text: str, code: str, place_: tuple[int, int, int], message: str, label: str
) -> None:
    found = fault(f"{FLAGSHIP}sweep: {text}\n")
    assert (found.code, *place(found)) == (code, *place_)
    assert message in found.message
    assert found.label == label


@pytest.mark.parametrize("key", ["sweeps", "swep", "seep"])
def test_a_misspelled_sweep_is_all_that_is_said(key: str) -> None:
    found = fault(f"{FLAGSHIP}{key}: {{product: {{seed: [1]}}}}\n")
    assert (found.code, *place(found), found.label) == ("MC103", 17, 1, len(key), "did you mean `sweep`?")


def test_a_fault_of_many_runs_is_told_once() -> None:
    text = (
        FLAGSHIP.replace("regular: 8", "regular: 0")
        + "sweep: {product: {seed: [1, 2, -1], data.batch_size: [1, 0, 2]}}\n"
    )
    assert [place(one) for one in faults(text)] == [(10, 41, 1), (17, 32, 2), (17, 58, 1)]


def test_a_fault_that_some_values_bring_out_elsewhere_names_them() -> None:
    text = stages("quantize", "train") + "sweep: {product: {stages.train: [finetune, {trt_int8: {}}], seed: [1, 2]}}\n"
    assert Recipe.from_text(text).variants
    text = text.replace("- train", "- finetune\n  - trt_int8").replace("stages.train", "stages.quantize")
    (found,) = faults(text.replace("[finetune, {trt_int8: {}}]", "[{quantize: {}}, train]"))
    assert (found.code, found.line) == ("MC113", 7)
    assert 'in the sweep\'s run with `stages.quantize="train", seed=1`' in found.hint


def test_the_plug_ins_of_a_sweep_run_once(tmp_path: Path) -> None:
    (tmp_path / "count.py").write_text(
        "from pathlib import Path\n"
        "from mcomp.stages.base import Stage, StageOptions\n"
        "from mcomp.stages.registry import register\n"
        "log = Path(__file__).with_name('log')\n"
        "log.write_text(log.read_text() + 'x' if log.exists() else 'x')\n"
        "@register\n"
        "class Mine(Stage):\n"
        "    name = 'mine'\n"
        "    class Options(StageOptions):\n"
        "        pass\n"
        "    def run(self, ctx, options):\n"
        "        raise NotImplementedError\n"
    )
    text = "plugins: [count.py]\n" + stages("train", "mine") + "sweep: {product: {seed: [1, 2, 3, 4]}}\n"
    assert len(Recipe.from_text(text, trust=True, base_dir=tmp_path).variants) == 4
    assert (tmp_path / "log").read_text() == "x"


def test_a_thousand_runs_are_parsed_once_and_validated_each(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[Source] = []

    def counted(source: Source, faults: Faults) -> Node | None:
        calls.append(source)
        return parse(source, faults)

    monkeypatch.setattr("mcomp.recipe.composition.parse", counted)
    numbers = ", ".join(map(str, range(MAX_POINTS)))
    recipe = swept(f"sweep: {{product: {{seed: [{numbers}]}}}}\n", base=stages("train"))
    assert [one.seed for one in recipe.variants] == list(range(MAX_POINTS))
    assert len(calls) == 1


@pytest.mark.parametrize(
    "many", ["metadata: {{a: [{}]}}\nsweep: {{product: {{", "sweep: {{product: {{metadata.a: [[{}]], "]
)
def test_a_large_recipe_is_not_swept_a_thousand_times(many: str) -> None:
    numbers = ", ".join(map(str, range(MAX_POINTS)))
    text = stages("train") + many.format("1, " * 3000) + f"seed: [{numbers}]}}}}\n"
    found = fault(text)
    assert (found.code, found.column, found.length) == ("MC125", 1, 5)
    assert "too large together" in found.message


def test_a_sweep_has_a_page_of_paths_at_most() -> None:
    text = stages("train") + "sweep: {zip: {" + ", ".join(f"metadata.a{one}: [1]" for one in range(21)) + "}}\n"
    assert "`zip` varies 21 paths" in fault(text).message


def _plain(values: dict[str, list[int]]) -> str:
    return "{" + ", ".join(f"{path}: {found}" for path, found in values.items()) + "}"


_VALUES = st.lists(st.integers(1, 9), min_size=1, max_size=3)


@settings(max_examples=40, deadline=None)
@given(
    st.fixed_dictionaries({}, optional={"seed": _VALUES, "data.batch_size": _VALUES}),
    st.integers(1, 3).flatmap(
        lambda size: st.fixed_dictionaries(
            {},
            optional={
                "stages.train.epochs": st.lists(st.integers(1, 9), min_size=size, max_size=size),
                "metadata.a": st.lists(st.integers(1, 9), min_size=size, max_size=size),
            },
        )
    ),
)
def test_a_run_is_what_its_values_set_one_by_one_would_give(crossed: dict[str, Any], zipped: dict[str, Any]) -> None:
    text = stages("train", "finetune")
    recipe = Recipe.from_text(text + f"sweep: {{product: {_plain(crossed)}, zip: {_plain(zipped)}}}\n")
    size = len(next(iter(zipped.values()), [0]))
    for values in crossed.values():
        size *= len(values)
    assert len(recipe.variants) == (size if crossed or zipped else 0)
    for one in recipe.variants:
        alone = Recipe.from_text(text, [f"{path}={value}" for path, value in one.sweep_values.items()])
        assert alone.lock() == one.lock()


_WORDS = st.sampled_from(["product", "zip", "seed", "vars.ratio", "stages.prune.ratio", "a..b", "stages[99]"])
_ANYTHING = st.recursive(
    st.one_of(st.none(), st.integers(), st.text(max_size=4)),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(_WORDS, inner, max_size=3),
    max_leaves=8,
)


@settings(max_examples=60, deadline=None)
@given(_ANYTHING)
def test_any_sweep_is_laid_out_or_diagnosed(value: Any) -> None:
    found = Faults()
    root = parse(Source("t", FLAGSHIP + f"sweep: {flow(value)}\n"), found)
    assert isinstance(root, MapNode)
    points = take_sweep(root, apply_sets(root, [], found), found)
    assert (points is None) == bool(found.errors)
    assert "sweep" not in root.entries


def test_a_sweep_below_metadata_that_is_text_adds_no_second_fault() -> None:
    text = "metadata: some words\nsweep: {product: {metadata.note: [a, b]}}\n" + stages("train")
    found = fault(text)
    assert (found.code, found.line) == ("MC104", 1)


def test_a_sweeps_path_of_more_steps_than_a_recipe_has_levels_is_refused() -> None:
    text = stages("train") + "sweep: {product: {metadata" + ".a" * 200 + ": [1, 2]}}\n"
    found = [one for one in faults(text) if one.code == "MC126"]
    assert [one.message.endswith("a path has at most 50 steps") for one in found] == [True]


def test_a_sweep_over_lists_of_stages_is_held_to_as_many_as_any_recipe() -> None:
    found = fault(stages("train") + f"sweep: {{product: {{stages: [[train], [{'train, ' * 257}]]}}}}\n")
    assert found.code == "MC123"
