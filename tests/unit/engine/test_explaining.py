from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from mcomp.cli.main import main
from mcomp.engine.explaining import Explanation, explain
from mcomp.engine.keys import KeyMaker, key_of, root_of
from mcomp.engine.planning import make_plan
from mcomp.errors import UsageError
from mcomp.recipe import Recipe
from mcomp.stages import registry
from mcomp.store import Store
from tests.conftest import ROOT
from tests.unit.store.stores import outcome, result

RECIPE = """\
version: 1
name: told
precision: fp32
model: {name: lenet}
data: {name: synthetic, samples: 60}
stages:
  - train: {epochs: 5}
  - prune: {ratio: 0.4}
  - finetune: {epochs: 1}
  - evaluate:
    id: side
    from: train
"""


def loaded(*sets: str, text: str = RECIPE) -> tuple[Recipe, KeyMaker]:
    recipe = Recipe.from_text(text, sets, trust=True, base_dir=Path.cwd())
    return recipe, KeyMaker(recipe, root_of(recipe, cache_dir=None, code_cache=None))


def run_of(store: Store, *sets: str, text: str = RECIPE, mark: str = "") -> str:
    """A finished run of the recipe, as one is found in a store; returns its id."""
    return finish(store, *loaded(*sets, text=text), mark)


def finish(store: Store, recipe: Recipe, keys: KeyMaker, mark: str = "") -> str:
    artifacts: dict[str, str] = {}
    stages: list[dict[str, Any]] = []
    for stage in recipe.stages:
        preimage = keys.preimage(stage, None if stage.source is None else artifacts[stage.source], artifacts)
        key = key_of(preimage)
        with store.staging() as folder:
            (folder / "tensors.pt").write_text(key)
            artifacts[stage.id] = store.commit(folder, {"identity": {"key": key, "mark": mark}})
        code = keys.recorded(stage, preimage)
        store.put_action(
            key,
            {
                "artifact": artifacts[stage.id], "metrics": {}, "seconds": 1.0, "files": {}, "notes": [],
                "threads": 1, "preimage": preimage, "code": code,
            },
        )  # fmt: skip
        stages.append(outcome(stage.id, key, artifacts[stage.id], stage.uses))
    run = store.new_run(recipe.name, stages[-1]["key"][:8])
    run.write_json("result.json", result(recipe.name, stages, sweep=dict(recipe.sweep_values)))
    return run.id


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Store:
    monkeypatch.chdir(tmp_path)
    return Store(tmp_path / "store")


def told(store: Store, stage: str, *sets: str, against: str | None = None, text: str = RECIPE) -> Explanation:
    recipe, keys = loaded(*sets, text=text)
    return explain(recipe, stage, store, keys, against)


def texts(found: Explanation) -> list[str]:
    return [change.text for change in found.changes]


def test_a_stage_that_did_not_change_has_the_same_key(store: Store) -> None:
    run = run_of(store)
    found = told(store, "prune")
    assert (found.status, found.run, found.same_key) == ("hit", run, True)
    assert not [*found.changes, *found.causes, *found.notes]


@pytest.mark.parametrize(
    ("sets", "stage", "expected"),
    [
        (["stages.train.epochs=6"], "train", ["option `epochs` 5 -> 6"]),
        (["stages.train.grad_clip=null"], "train", ["option `grad_clip` 1.0 -> null"]),
        (["data.batch_size=8"], "train", ["data option `batch_size` 64 -> 8"]),
        (["model.width=0.5"], "train", ["model option `width` 1.0 -> 0.5"]),
        (["precision=bf16"], "prune", ["precision fp32 -> bf16"]),
    ],
)
def test_exactly_the_components_that_differ_are_named(
    sets: list[str], stage: str, expected: list[str], store: Store
) -> None:
    run_of(store)
    found = told(store, stage, *sets)
    assert texts(found) == expected
    assert found.status == "run"


def test_the_recipes_seed_is_named_beside_the_stages_own(store: Store) -> None:
    run_of(store)
    words = texts(told(store, "train", "seed=1"))
    assert any(text.startswith("its seed ") for text in words)
    assert "the recipe's `seed` 0 -> 1, which draws the first weights" in words


def test_a_change_upstream_is_followed_to_the_first_stage_that_differs(store: Store) -> None:
    run_of(store)
    found = told(store, "finetune", "stages.train.epochs=6")
    assert (found.key, found.changes) == (None, [])
    assert [(cause.stage, cause.text) for cause in found.causes] == [("train", "option `epochs` 5 -> 6")]


def test_every_stage_upstream_that_differs_is_named_in_order(store: Store) -> None:
    run_of(store)
    found = told(store, "finetune", "stages.train.epochs=6", "stages.prune.ratio=0.5", "stages.finetune.epochs=2")
    assert texts(found) == ["option `epochs` 1 -> 2"]
    assert [cause.stage for cause in found.causes] == ["train", "prune"]


def test_another_branch_is_no_cause(store: Store) -> None:
    run_of(store)
    found = told(store, "side", "stages.prune.ratio=0.5")
    assert found.same_key
    assert found.status == "hit"


def test_a_stage_whose_condition_does_not_hold_is_explained_all_the_same(store: Store) -> None:
    run_of(store)
    text = RECIPE.replace("  - prune: {ratio: 0.4}", "  - prune: {ratio: 0.4}\n    when: false")
    skipped = told(store, "prune", text=text)
    assert skipped.status == "skip"
    assert skipped.components["options"]["ratio"] == 0.4
    assert (skipped.run, skipped.key, skipped.changes) == (None, None, [])
    assert skipped.notes == ["a skipped stage has no key: there is nothing to compare"]
    (cause,) = told(store, "finetune", text=text).causes
    assert (cause.stage, cause.text) == ("train", "`finetune` followed `prune`")


def test_a_stage_behind_an_open_condition_is_explained_with_what_is_known(store: Store) -> None:
    text = RECIPE.replace("  - prune: {ratio: 0.4}", WHEN)
    found = told(store, "finetune", text=text)
    assert (found.status, found.key) == ("run", None)
    assert found.components["upstream"] == {"artifact": "not made yet"}


WHEN = """\
  - prune: {ratio: 0.4}
    when: {stage: train, metric: top1, min: 50}"""


def test_another_stage_in_between_is_a_cause(store: Store) -> None:
    run_of(store)
    text = RECIPE.replace("  - finetune", "  - evaluate\n  - finetune")
    (cause,) = told(store, "finetune", text=text).causes
    assert (cause.stage, cause.text) == ("evaluate", "`finetune` followed `prune`")


def test_changed_code_is_told_by_its_files(store: Store, tmp_path: Path) -> None:
    (tmp_path / "net.py").write_text("from parts import x\n\ndef build(num_classes):\n    return None\n")
    (tmp_path / "parts.py").write_text("x = 1\n")
    text = RECIPE.replace("{name: lenet}", '{name: "net.py:build"}')
    run_of(store, text=text)
    (tmp_path / "parts.py").write_text("x = 2\n")
    found = told(store, "train", text=text)
    assert texts(found) == ["your model's code: `parts`"]
    assert found.changes[0].files == ("parts",)


def test_what_is_cached_but_has_to_run_says_why(store: Store) -> None:
    run_of(store)
    (planned,) = (one for one in make_plan(*with_store(store)).stages if one.stage.id == "train")
    assert planned.record is not None
    store.quarantine(planned.record["artifact"], "a test")
    found = told(store, "train")
    assert found.same_key
    assert found.status == "run"
    assert "damaged" in found.notes[0]
    assert "nothing differs" in found.notes[0]


def with_store(store: Store) -> tuple[Recipe, Store, KeyMaker]:
    recipe, keys = loaded()
    return recipe, store, keys


def test_cache_false_is_said(store: Store) -> None:
    run_of(store)
    found = told(store, "prune", text=RECIPE.replace("{ratio: 0.4}", "{ratio: 0.4}\n    cache: false"))
    assert found.same_key
    assert any("`cache: false`" in note for note in found.notes)


def test_a_stage_that_made_another_artifact_under_its_key_is_a_cause(store: Store) -> None:
    first = run_of(store)
    run_of(store, mark="again")
    found = told(store, "prune", against=first)
    assert found.changes == []
    assert [(cause.stage, cause.text) for cause in found.causes] == [
        ("train", "under the same key it made another artifact")
    ]


def test_a_record_that_is_gone_leaves_the_keys_to_compare(store: Store) -> None:
    run_of(store)
    for path in (store.root / "actions").rglob("*.json"):
        path.unlink()
    found = told(store, "train", "stages.train.epochs=6")
    assert found.changes == []
    assert "only the keys can be compared" in found.notes[0]
    again = told(store, "train")
    assert again.same_key
    assert "nothing differs" in again.notes[0]


def test_an_empty_store_has_nothing_to_compare_with(store: Store) -> None:
    found = told(store, "train")
    assert found.run is None
    assert "nothing to compare with" in found.notes[0]
    assert found.as_dict()["against"] is None


def test_a_run_is_chosen_by_id_by_its_beginning_or_as_the_latest(store: Store) -> None:
    first = run_of(store, "stages.train.epochs=3")
    second = run_of(store, "stages.train.epochs=4")
    assert told(store, "train").run == second
    assert told(store, "train", against="latest").run == second
    assert told(store, "train", against=first).run == first
    assert texts(told(store, "train", against=first[: len(first) - 4])) == ["option `epochs` 3 -> 5"]


@pytest.mark.parametrize(
    ("stage", "against", "code", "words"),
    [
        ("finetun", None, "MC290", "did you mean `finetune`?"),
        ("train", "1999", "MC291", "`mcomp runs` lists them"),
        ("train", "2", "MC291", "give more of the id"),
    ],
)
def test_an_unknown_stage_or_run_is_refused_with_a_suggestion(
    stage: str, against: str | None, code: str, words: str, store: Store
) -> None:
    run_of(store)
    run_of(store)
    with pytest.raises(UsageError) as caught:
        told(store, stage, against=against)
    assert caught.value.code == code
    assert words in str(caught.value)


def test_the_command_prints_components_and_differences(
    store: Store, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = run_of(store)
    (tmp_path / "told.yaml").write_text(RECIPE)
    words = ["explain", "told.yaml", "prune", "--store", str(store.root)]
    assert main(words) == 0
    out = capsys.readouterr().out
    for part in ("prune: hit", "ratio 0.4", "content ", "artifact ", "torch ", f"same key as in run {run}"):
        assert part in out
    assert main([*words, "--set", "stages.train.epochs=6"]) == 0
    assert "the model that it receives, because `train` differs: option `epochs` 5 -> 6" in capsys.readouterr().out
    assert main([*words, "--json", "--set", "stages.prune.ratio=0.5"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["stage"], found["status"], found["against"]["run"]) == ("prune", "run", run)
    assert found["against"]["changes"] == [
        {"component": "options.ratio", "old": 0.4, "new": 0.5, "text": "option `ratio` 0.4 -> 0.5"}
    ]
    assert found["components"]["options"]["ratio"] == 0.5
    assert found["code"]["code"]["version"] == registry.get("prune").version


def test_a_run_of_a_sweep_is_chosen_by_its_number(
    store: Store, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run_of(store)
    (tmp_path / "told.yaml").write_text(RECIPE + "sweep: {product: {stages.prune.ratio: [0.4, 0.5]}}\n")
    words = ["explain", "told.yaml", "prune", "--store", str(store.root)]
    assert main([*words, "--variant", "1"]) == 0
    assert "same key" in capsys.readouterr().out
    assert main([*words, "--variant", "2"]) == 0
    assert "option `ratio` 0.4 -> 0.5" in capsys.readouterr().out
    assert main(words) == main([*words, "--variant", "3"]) == 2
    assert "MC292" in capsys.readouterr().err


def test_explaining_loads_no_torch(store: Store, tmp_path: Path) -> None:
    run_of(store)
    (tmp_path / "told.yaml").write_text(RECIPE)
    words = ["explain", "told.yaml", "prune", "--store", str(store.root)]
    script = (
        f"import sys\nfrom mcomp.cli.main import main\nmain({words})\n"
        "sys.exit(bool({'torch', 'rich'} & set(sys.modules)))"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "prune: hit" in done.stdout


def test_a_stage_of_another_id_is_compared_with_what_it_was_called(store: Store) -> None:
    plain = RECIPE.replace("  - prune", "  - evaluate\n  - prune")
    run_of(store, text=plain)
    pass_on(store)
    renamed = plain.replace("  - train: {epochs: 5}", "  - train: {epochs: 6}\n    id: pre").replace("from: train", "")
    (cause,) = told(store, "evaluate", text=renamed).causes
    assert (cause.stage, cause.text) == ("pre", "option `epochs` 5 -> 6")


def pass_on(store: Store) -> None:
    """In the newest run `evaluate` handed on what it got, as it does."""
    run = store.runs()[0]
    assert run.result is not None
    found = {stage["id"]: stage for stage in run.result["stages"]}
    found["evaluate"]["artifact"] = found["train"]["artifact"]
    (run.path / "result.json").write_text(json.dumps(run.result))


def test_a_point_of_a_sweep_is_compared_with_the_same_point(store: Store) -> None:
    text = RECIPE + "sweep: {product: {stages.prune.ratio: [0.3, 0.5]}}\n"
    recipe = Recipe.from_text(text, trust=True, base_dir=Path.cwd())
    for point in recipe.variants:
        run_point(store, point)
    changed = Recipe.from_text(text, ["stages.prune.importance=l1"], trust=True, base_dir=Path.cwd())
    for point in changed.variants:
        keys = KeyMaker(point, root_of(point, cache_dir=None, code_cache=None))
        reason = make_plan(point, store, keys)["prune"].reason
        assert "importance" in reason
        assert "ratio" not in reason
        assert texts(explain(point, "prune", store, keys)) == [reason]


def run_point(store: Store, point: Recipe) -> None:
    finish(store, point, KeyMaker(point, root_of(point, cache_dir=None, code_cache=None)))


def test_a_changed_file_of_ones_own_is_named_in_the_headline_too(store: Store, tmp_path: Path) -> None:
    net = "from torch import nn\n\n\ndef build(num_classes):\n    return nn.Flatten(WHAT)\n"
    (tmp_path / "my_net.py").write_text(net.replace("WHAT", "1"))
    text = RECIPE.replace("name: lenet", '"name": "my_net.py:build"')
    run_of(store, text=text)
    (tmp_path / "my_net.py").write_text(net.replace("WHAT", "2"))
    found = told(store, "train", text=text)
    assert texts(found) == [found.reason] == ["your model's code: `my_net`"]
