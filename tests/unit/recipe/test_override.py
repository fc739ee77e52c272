from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mcomp.recipe import Recipe, stage_edits
from mcomp.recipe.stage_entries import Entry, outline
from mcomp.recipe.tree import ListNode
from tests.unit.recipe.samples import FLAGSHIP, HEAD, fault, faults, place, stages

IDS = ["train", "sparse_train", "prune", "finetune", "quantize", "bn_fuse", "trt_int8"]


def edited(text: str, *sets: str, base: str = FLAGSHIP) -> Recipe:
    return Recipe.from_text(base + text, sets)


def ids(recipe: Recipe) -> list[str]:
    return [one.id for one in recipe.stages]


def test_options_of_a_stage_are_changed_one_by_one() -> None:
    recipe = edited(
        "override: {prune: {regular: 4}, trt_int8: {calibration: {samples: 7}}, bn_fuse: {tolerance: 0.5}}\n"
    )
    assert recipe.stages[2].options.model_dump() == {"ratio": 0.4, "regular": 4}
    assert recipe.stages[6].options.calibration.model_dump(exclude={"cache_file"}) == {
        "method": "entropy",
        "samples": 7,
    }
    assert recipe.stages[5].options.tolerance == 0.5


def test_a_list_is_replaced_and_a_keyword_stands_beside_the_stage() -> None:
    text = "override:\n  train: {milestones: [0.1], seed: 3, cache: false}\n  prune: {gates: [], id: cut}\n"
    recipe = edited(text, base=FLAGSHIP.replace("epochs: 5}\n  - sparse", "epochs: 5, milestones: [1, 2]}\n  - sparse"))
    assert recipe.stages[0].options.milestones == [0.1]
    assert (recipe.stages[0].seed, recipe.stages[0].cache) == (3, False)
    assert (recipe.stages[2].gates, recipe.stages[2].id) == ([], "cut")


def test_variables_may_be_used_in_an_override() -> None:
    assert edited('override: {train: {lr: "${ratio}"}}\n').stages[0].options.lr == 0.4


def test_stages_are_dropped_and_inserted_by_their_ids() -> None:
    recipe = edited(
        "drop: [sparse_train, trt_int8]\n"
        "override: {prune: {gates: []}}\n"
        "insert:\n"
        "  - {after: prune, stages: [bn_fuse: {tolerance: 0.1}]}\n"
        "  - {before: train, stages: [{train: {epochs: 1}, id: warm}, finetune]}\n"
        "  - {after: prune, stages: [{train: {epochs: 2}, id: late}]}\n",
        base=FLAGSHIP.replace("  - quantize: {scheme: dorefa, w_bits: 8, a_bits: 8, epochs: 4}\n", "")
        .replace("  - bn_fuse\n", "")
        .replace("    gates: [{metric: top1, max_drop: 1.0, unit: points, vs: finetune}]\n", ""),
    )
    assert ids(recipe) == ["warm", "finetune_2", "train", "prune", "bn_fuse", "late", "finetune"]


def test_a_stage_keeps_its_id_whatever_comes_or_goes_before_it() -> None:
    base = stages("train", "train: {epochs: 2}", "finetune", "train: {epochs: 3}")
    recipe = edited("drop: [train]\ninsert: [{before: finetune, stages: [train]}]\n", base=base)
    assert [(one.id, getattr(one.options, "epochs", None)) for one in recipe.stages] == [
        ("train_2", 2), ("train", 5), ("finetune", 5), ("train_3", 3),
    ]  # fmt: skip
    assert [one.id for one in Recipe.from_text(recipe.lock()).stages] == ids(recipe)


def test_a_stage_may_be_inserted_beside_one_that_was() -> None:
    text = "insert: [{after: train, stages: [{train: {}, id: a}]}, {before: a, stages: [{train: {}, id: b}]}]\n"
    assert ids(edited(text, base=stages("train", "finetune"))) == ["train", "b", "a", "finetune"]


def test_a_set_names_what_was_inserted_and_overridden() -> None:
    text = "override: {prune: {regular: 4, id: cut}}\ninsert: [{after: train, stages: [train]}]\n"
    recipe = edited(text, "stages.train_2.epochs=9", "stages.cut.ratio=0.1", "stages[1].train.lr=0.5")
    assert (recipe.stages[1].options.epochs, recipe.stages[1].options.lr) == (9, 0.5)
    assert recipe.stages[3].options.ratio == 0.1


@pytest.mark.parametrize("kept", IDS)
def test_dropping_a_stage_and_inserting_it_again_changes_nothing(kept: str) -> None:
    lines = FLAGSHIP.split("stages:\n")[1].split("\n  - ")
    entries = [one.removeprefix("  - ").rstrip("\n").replace("\n    ", "\n        ") for one in lines]
    place_ = IDS.index(kept)
    side, anchor = ("before", IDS[1]) if place_ == 0 else ("after", IDS[place_ - 1])
    entry = entries[place_]
    text = f"drop: [{kept}]\ninsert:\n  - {side}: {anchor}\n    stages:\n      - {entry}\n"
    original = Recipe.from_text(FLAGSHIP)
    assert edited(text).lock() == original.lock()


@settings(max_examples=40, deadline=None)
@given(st.lists(st.sampled_from(["train", "finetune", "sparse_train"]), min_size=2, max_size=6), st.data())
def test_the_ids_that_are_left_are_those_that_were_not_dropped(uses: list[str], data: st.DataObject) -> None:
    base = stages(*uses)
    before = ids(Recipe.from_text(base))
    gone = data.draw(st.lists(st.sampled_from(before), unique=True, max_size=len(before) - 1))
    recipe = edited(f"drop: [{', '.join(gone)}]\n", base=base)
    assert ids(recipe) == [one for one in before if one not in gone]
    assert ids(Recipe.from_text(recipe.lock())) == ids(recipe)


@settings(max_examples=40, deadline=None)
@given(st.lists(st.sampled_from(IDS), unique=True))
def test_an_override_that_changes_nothing_is_none(names: list[str]) -> None:
    text = "override: {" + ", ".join(f"{name}: {{}}" for name in names) + "}\ndrop: []\ninsert: []\n"
    assert edited(text).lock() == Recipe.from_text(FLAGSHIP).lock()


@pytest.mark.parametrize(
    ("text", "code", "place_", "message", "label"),
    [
        ("override: {prun: {ratio: 0.5}}", "MC124", (17, 12, 4), "no stage has the id `prun`", "did you mean `prune`?"),
        ("override: {prune: {ratoi: 0.5}}", "MC103", (17, 20, 5), "unknown option `ratoi`", "did you mean `ratio`?"),
        ("override: {prune: {ratio: 5}}", "MC104", (17, 27, 1), "`ratio` must be greater than 0", ""),
        ("override: {prune: {gate: []}}", "MC103", (17, 20, 4), "option or keyword `gate`", "did you mean `gates`?"),
        ("override: {prune: 0.5}", "MC104", (17, 19, 3), "must be a mapping of options, got 0.5", ""),
        ("override: [prune]", "MC104", (17, 11, 1), "`override` must be a mapping", ""),
        ("drop: [bn_fus]", "MC124", (17, 8, 6), "no stage has the id `bn_fus`", "did you mean `bn_fuse`?"),
        ("drop: bn_fuse", "MC104", (17, 7, 7), "`drop` must be a list of stage ids", ""),
        ("drop: [[bn_fuse]]", "MC104", (17, 8, 1), "names stages by their ids, got a list of 1", ""),
        ("drop: [trt_int8, trt_int8]", "MC124", (17, 18, 8), "taken out twice", ""),
        ("drop: [3]", "MC124", (17, 8, 1), "no stage has the id `3`", ""),
        ("insert: {after: train}", "MC104", (17, 9, 1), "`insert` must be a list", ""),
        ("insert: [train]", "MC104", (17, 10, 5), "an item of `insert` must be a mapping", ""),
        ("insert: [{aftr: train, stages: []}]", "MC103", (17, 11, 4), "unknown key `aftr`", "did you mean `after`?"),
        ("insert: [{stages: []}]", "MC105", (17, 10, 1), "needs `after` or `before`", ""),
        ("insert: [{after: train}]", "MC105", (17, 10, 1), "needs `stages`", ""),
        ("insert: [{after: a, before: b, stages: []}]", "MC105", (17, 10, 1), "one is enough", ""),
        ("insert: [{after: trian, stages: []}]", "MC124", (17, 18, 5), "no stage has", "did you mean `train`?"),
        ("insert: [{after: train, stages: evaluate}]", "MC104", (17, 33, 8), "`stages` of `insert` must be a list", ""),
        (
            "insert: [{after: train, stages: [prun: {}]}]",
            "MC106",
            (17, 34, 4),
            "unknown stage `prun`",
            "did you mean `prune`?",
        ),
        ("insert: [{after: train, stages: [prune: {}]}]", "MC105", (17, 34, 5), "needs the option `ratio`", ""),
        ("dorp: [train]", "MC103", (17, 1, 4), "unknown key `dorp`", "did you mean `drop`?"),
        ("overide: {}", "MC103", (17, 1, 7), "unknown key `overide`", "did you mean `override`?"),
        ("inserts: []", "MC103", (17, 1, 7), "unknown key `inserts`", "did you mean `insert`?"),
    ],
)
def test_one_mistake_is_one_fault_where_it_is(
    text: str, code: str, place_: tuple[int, int, int], message: str, label: str
) -> None:
    found = fault(FLAGSHIP + text + "\n")
    assert (found.code, *place(found)) == (code, *place_)
    assert message in found.message
    assert found.label == label


def test_an_override_of_what_is_dropped_says_so() -> None:
    found = fault(FLAGSHIP + "drop: [trt_int8]\noverride: {trt_int8: {output: a}}\n")
    assert "taken out by `drop`" in found.message


def test_an_edit_without_stages_is_not_lost_in_silence(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("override: {train: {epochs: 1}}\n")
    found = fault("extends: a.yaml\n" + stages("train"), base_dir=tmp_path, name=str(tmp_path / "r.yaml"))
    assert (found.code, found.file, *place(found)) == ("MC124", str(tmp_path / "a.yaml"), 1, 1, 8)
    assert fault(HEAD + "drop: [train]\n").code == "MC124"


def test_faults_elsewhere_are_told_beside_those_of_an_edit() -> None:
    text = FLAGSHIP.replace("batch_size", "bacth_size").replace("seed: 0", "seed: -1") + "drop: [a]\ninsert: 3\n"
    assert [one.line for one in faults(text)] == [3, 6, 17, 18]


def test_a_gate_of_a_dropped_stage_is_a_fault_of_the_gate() -> None:
    found = fault(FLAGSHIP + "drop: [sparse_train]\n")
    assert (found.code, found.line) == ("MC112", 11)


def test_stages_that_are_no_list_are_refused_where_they_stand_though_they_are_edited() -> None:
    found = fault(HEAD + "stages: true\noverride: {train: {epochs: 1}}\n")
    assert (found.code, found.line, found.column) == ("MC104", 4, 9)


def test_an_insertion_of_more_stages_than_a_recipe_may_have_is_one_fault_told_soon(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    laid_out = []

    def counted(stages: ListNode) -> list[Entry]:
        laid_out.append(stages)
        return outline(stages)

    monkeypatch.setattr(stage_edits, "outline", counted)
    found = fault(stages("train") + f"insert: [{'{after: train, stages: [train]}, ' * 1500}]\n")
    assert found.code == "MC123"
    assert len(laid_out) < 300
