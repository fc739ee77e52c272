from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mcomp.recipe import Recipe
from mcomp.recipe.branches import Branches
from tests.unit.recipe.samples import fault, faults, place, stages

TAILS = stages(
    "train",
    "quantize: {}\n    id: q8",
    "trt_int8: {}",
    "quantize: {w_bits: 4}\n    id: q4\n    from: train",
    "bn_fuse",
    "trt_int8",
)


def test_a_stage_goes_on_from_the_entry_before_it_or_from_the_one_it_names() -> None:
    sources = {one.id: one.source for one in Recipe.from_text(TAILS).stages}
    assert sources == {
        "train": None, "q8": "train", "trt_int8": "q8", "q4": "train", "bn_fuse": "q4", "trt_int8_2": "bn_fuse",
    }  # fmt: skip


def test_a_stage_sees_its_own_path_and_no_other_tail() -> None:
    around = {one.id: one.surroundings for one in Recipe.from_text(TAILS).stages}
    assert around["q4"].before == ("train",)
    assert around["q4"].after == ("bn_fuse", "trt_int8")
    assert around["q8"].after == ("trt_int8",)
    assert around["trt_int8_2"].before == ("train", "quantize", "bn_fuse")
    assert around["train"].after == ("quantize", "trt_int8", "quantize", "bn_fuse", "trt_int8")
    assert "float" in around["q4"].have


def test_what_one_tail_folded_is_not_folded_in_another() -> None:
    assert (
        Recipe.from_text(stages("train", "bn_fuse", "prune: {ratio: 0.4}\n    from: train")).stages[2].source == "train"
    )
    found = fault(stages("train", "bn_fuse", "finetune", "prune: {ratio: 0.4}\n    from: bn_fuse"))
    assert "but `bn_fuse` (line 6) folded them" in found.message


def test_a_later_entry_chains_from_the_branch() -> None:
    found = fault(stages("quantize", "trt_int8", "train:\n    from: quantize", "trt_int8", "trt_int8"))
    assert "`trt_int8` (line 10) cannot take a model" in found.message
    assert "`trt_int8` (line 9)" in found.message


def test_the_same_missing_trait_is_said_once_in_each_tail() -> None:
    text = stages("train", "trt_int8", "trt_int8:\n    from: train", "train")
    assert [one.line for one in faults(text)] == [6, 7]


@pytest.mark.parametrize(
    ("entries", "at", "message", "advice"),
    [
        (
            ["train", "bn_fuse:\n    from: trian"],
            (7, 11, 5),
            "no earlier stage has the id `trian`",
            "did you mean `train`?",
        ),
        (["train", "bn_fuse:\n    from: q", "train: {}\n    id: q"], (7, 11, 1), "`from: q` is a later stage", ""),
        (["train", "bn_fuse:\n    from: bn_fuse"], (7, 11, 7), "`from: bn_fuse` is this very stage", ""),
        (["train:\n    from: zzz"], (6, 11, 3), "no earlier stage has the id `zzz`", "the first stage has none"),
        (["train", "bn_fuse:\n    from: [train]"], (7, 11, 1), "`from` must be the id of a stage, got a list", "e.g."),
        (
            ["train: {}\n    id: 3", "bn_fuse:\n    from: 3"],
            (8, 11, 1),
            "`from` must be the id of a stage, got 3",
            "quotes",
        ),
    ],
)
def test_a_wrong_from_is_one_fault_where_it_is(
    entries: list[str], at: tuple[int, int, int], message: str, advice: str
) -> None:
    found = fault(stages(*entries))
    assert message in found.message
    assert advice in f"{found.label}{found.hint}"
    assert place(found) == at


def test_behind_a_from_that_leads_nowhere_only_what_is_certain_is_said() -> None:
    assert [one.code for one in faults(stages("bn_fuse", "prune: {ratio: 0.4}\n    from: xyz", "trt_int8"))] == [
        "MC130"
    ]


def test_a_from_that_may_name_a_misspelled_stage_is_not_a_second_fault() -> None:
    assert [one.code for one in faults(stages("trian", "bn_fuse:\n    from: train"))] == ["MC106"]


def test_a_gate_compares_with_any_earlier_stage_of_the_list() -> None:
    text = stages(
        "train", "quantize", "finetune: {}\n    from: train\n    gates: [{metric: top1, max_drop: 1, vs: quantize}]"
    )
    assert Recipe.from_text(text).stages[2].gates[0].vs == "quantize"


def test_an_empty_from_is_no_from() -> None:
    assert Recipe.from_text(stages("train", "bn_fuse:\n    from:")).stages[1].source == "train"


@st.composite
def _trees(draw: st.DrawFn) -> Branches:
    count = draw(st.integers(1, 12))
    sources = [None, *(draw(st.integers(0, place - 1)) for place in range(1, count))]
    return Branches(tuple(sources), frozenset())


@given(_trees())
def test_one_stage_is_before_another_exactly_where_the_other_is_after_it(tree: Branches) -> None:
    places = range(len(tree.sources))
    before = {(one, other) for other in places for one in tree.before(other)}
    after = {(one, other) for one in places for other in tree.after(one)}
    assert before == after
    assert all(one < other for one, other in before)
