from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from mcomp.engine import Engine
from mcomp.engine.keys import key_of
from mcomp.recipe import Recipe
from mcomp.store import Store
from tests.unit.store.stores import outcome, result

RECIPE = "version: 1\nname: n\nmodel: {name: lenet}\ndata: {name: digits}\nstages: [{train: {epochs: 1}}, evaluate]\n"


def pretend(store: Store, recipe: Recipe) -> None:
    """Fill the store with what a run of the first stage would leave there."""
    planned = Engine(store).plan(recipe).stages[0]
    assert planned.preimage is not None
    assert planned.key == key_of(planned.preimage)
    with store.staging() as folder:
        artifact = store.commit(folder, {"identity": planned.key})
    record = {"artifact": artifact, "metrics": {"top1": 97.0, "params": 10}, "seconds": 1.5}
    store.put_action(planned.key, {**record, "files": {}, "notes": [], "preimage": planned.preimage})
    run = store.new_run(recipe.name, planned.key[:8])
    run.write_json("result.json", result(recipe.name, [outcome("train", planned.key, artifact)]))


@pytest.fixture
def store(tmp_path: Path) -> Store:
    found = Store(tmp_path / "store")
    pretend(found, Recipe.from_text(RECIPE))
    return found


def test_a_hit_brings_the_figures_it_measured(store: Store) -> None:
    plan = Engine(store).plan(Recipe.from_text(RECIPE))
    assert [planned.status for planned in plan.stages] == ["hit", "run"]
    assert (plan["train"].params, plan["train"].seconds, plan["train"].macs) == (10, 1.5, None)
    assert plan.giver(plan["evaluate"]) is plan["train"]
    assert plan.giver(plan["train"]) is None
    assert not plan.all_hits


def test_a_miss_says_what_changed_since_the_last_run(store: Store) -> None:
    plan = Engine(store).plan(Recipe.from_text(RECIPE, ["stages.train.epochs=2"]))
    assert [planned.status for planned in plan.stages] == ["run", "run"]
    assert "epochs" in plan["train"].reason
    assert plan["evaluate"].reason == "follows `train`, which runs"


def test_a_skipped_stage_gives_what_its_source_gave(store: Store) -> None:
    text = RECIPE.replace("evaluate]", "{evaluate: {}, when: false}, {evaluate: {}, id: last}]")
    plan = Engine(store).plan(Recipe.from_text(text))
    assert [planned.status for planned in plan.stages] == ["hit", "skip", "run"]
    assert plan.giver(plan["last"]) is plan["train"]


def test_a_stage_that_is_never_cached_says_so(store: Store) -> None:
    text = RECIPE.replace("{train: {epochs: 1}}", "{train: {epochs: 1}, cache: false}")
    assert Engine(store).plan(Recipe.from_text(text))["train"].reason == "`cache: false`"


def failed_before(store: Store, recipe: Recipe) -> None:
    """A newer run of the same name that did not come to its first stage's end."""
    lost = outcome("train", None, None) | {"status": "failed"}
    store.new_run(recipe.name, "0" * 8).write_json("result.json", result(recipe.name, [lost], status="failed"))


def test_a_run_that_failed_early_does_not_hide_what_an_older_one_made(store: Store) -> None:
    failed_before(store, Recipe.from_text(RECIPE))
    recipe = Recipe.from_text(RECIPE, ["stages.train.epochs=2"])
    assert Engine(store).plan(recipe)["train"].reason == "option `epochs` 1 -> 2"
    elsewhere = Recipe.from_text(RECIPE.replace("name: n\n", "name: other\n"), ["stages.train.epochs=2"])
    assert Engine(store).plan(elsewhere)["train"].reason == "never run before"


def test_a_stage_is_not_compared_with_the_one_that_ran_in_its_place(store: Store) -> None:
    condition = "when: {stage: train, metric: top1, min: 1}, otherwise: {evaluate: {}}"
    text = RECIPE.replace("evaluate]", "{quantize: {epochs: 0}, id: tail, WHEN}]").replace("WHEN", condition)
    recipe, key = Recipe.from_text(text), "a" * 64
    record: dict[str, Any] = {"artifact": "b" * 64, "metrics": {}, "seconds": 1.0, "files": {}, "notes": []}
    store.put_action(key, {**record, "preimage": {"stage": "evaluate", "upstream": {"artifact": "b" * 64}}})
    run = store.new_run(recipe.name, key[:8])
    run.write_json("result.json", result(recipe.name, [outcome("tail", key, "b" * 64, "evaluate")]))
    assert Engine(store).plan(recipe)["tail"].reason == "never run before"
    alone = Recipe.from_text(text.replace(f", {condition}", ""))
    assert Engine(store).plan(alone)["tail"].reason == "the stage behind this id: `evaluate` -> `quantize`"


def test_a_drawn_seed_is_no_reason_of_its_own(store: Store) -> None:
    reason = Engine(store).plan(Recipe.from_text(RECIPE, ["seed=1"]))["train"].reason
    assert reason == "the recipe's `seed` 0 -> 1, which draws the first weights"
