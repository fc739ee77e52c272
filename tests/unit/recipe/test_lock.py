"""What the lock writes of branches and conditions, and of options at any depth."""

from __future__ import annotations

from pathlib import Path

import pytest

from mcomp.recipe import Recipe
from mcomp.recipe.paths import path_options
from tests.unit.recipe.conftest import Calibration, TrtInt8
from tests.unit.recipe.samples import HEAD

BRANCHES = (
    HEAD
    + """\
stages:
  - train: {epochs: 3}
  - prune: {ratio: 0.4}
    when: {stage: train, metric: top1, min: 90}
    otherwise: stop
  - finetune: {epochs: 2}
    when: {stage: prune, metric: top1, vs: train, min_drop: 1.0}
  - quantize: {w_bits: 8}
    from: train
    otherwise: fail
    when: {backend: cuda, present: false}
  - quantize: {w_bits: 4}
    from: prune
    when: {device: cuda}
    otherwise: {finetune: {epochs: 1}, seed: 3, gates: [{metric: top1, min: 50}], cache: false}
  - train: {epochs: 1}
    when: false
    id: never
"""
)


def shape(recipe: Recipe) -> list[tuple[object, ...]]:
    found: list[tuple[object, ...]] = []
    for one in recipe.stages:
        instead = one.otherwise
        if not isinstance(instead, str):
            instead = (instead.uses, instead.options, instead.gates, instead.seed, instead.cache)  # type: ignore[assignment]
        found.append((one.id, one.uses, one.options, one.source, one.when, instead, one.seed, one.surroundings))
    return found


def test_branches_conditions_and_what_happens_otherwise_come_back() -> None:
    recipe = Recipe.from_text(BRANCHES)
    again = Recipe.from_text(recipe.lock())
    assert shape(again) == shape(recipe)
    assert again.lock().partition("\n")[2] == recipe.lock().partition("\n")[2]
    assert [one.source for one in again.stages] == [None, "train", "prune", "train", "prune", "quantize_2"]


def test_a_lock_says_from_only_where_the_stage_before_is_not_meant() -> None:
    assert Recipe.from_text(BRANCHES).lock().count("from:") == 2


def test_branches_survive_edits_and_sweeps() -> None:
    text = BRANCHES + (
        "override: {prune: {otherwise: skip, when: true}, quantize_2: {from: finetune}}\n"
        "drop: [never]\n"
        "sweep: {product: {stages.quantize.from: [train, prune], stages.prune.when: [true, false]}}\n"
    )
    recipe = Recipe.from_text(text)
    found = [(one.stages[3].source, one.stages[1].when) for one in recipe.variants]
    assert found == [("train", True), ("train", False), ("prune", True), ("prune", False)]
    for one in recipe.variants:
        assert one.stages[4].source == "finetune"
        assert shape(Recipe.from_text(one.lock())) == shape(one)


def test_a_path_option_is_found_at_any_depth() -> None:
    assert path_options(TrtInt8.Options) == {("output",), ("calibration", "cache_file"), ("skip", "cache_file")}
    assert path_options(Calibration) == {("cache_file",)}


@pytest.mark.parametrize("key", ["calibration", "skip"])
def test_the_lock_makes_paths_at_any_depth_absolute(tmp_path: Path, key: str) -> None:
    text = HEAD + f"stages:\n  - quantize\n  - trt_int8: {{{key}: {{cache_file: c.bin}}}}\n"
    lock = Recipe.from_text(text, base_dir=tmp_path).lock()
    assert getattr(Recipe.from_text(lock).stages[1].options, key).cache_file == str(tmp_path / "c.bin")
