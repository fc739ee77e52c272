from __future__ import annotations

from pathlib import Path

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
