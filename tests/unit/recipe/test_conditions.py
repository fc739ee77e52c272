from __future__ import annotations

import pytest

from mcomp.recipe import Recipe, RecipeStage
from mcomp.recipe.conditions import When
from tests.unit.recipe.samples import HEAD, fault, faults, place, stages


def _last(*entries: str) -> RecipeStage:
    return Recipe.from_text(stages(*entries)).stages[-1]


@pytest.mark.parametrize(
    ("when", "expected"),
    [
        ("true", True),
        ("false", False),
        ("", True),
        ("{backend: tensorrt}", When(backend="tensorrt")),
        ("{device: cuda, present: false}", When(device="cuda", present=False)),
        ("{stage: train, metric: top1, max: 97}", When(stage="train", metric="top1", max=97)),
        (
            "{stage: prune, metric: top1, min_drop: 1, max_drop: 5, vs: train, unit: percent}",
            When(stage="prune", metric="top1", min_drop=1, max_drop=5, vs="train", unit="percent"),
        ),
        (
            "{stage: prune, metric: params, min_ratio: 0.5, vs: train}",
            When(stage="prune", metric="params", min_ratio=0.5, vs="train"),
        ),
    ],
)
def test_a_condition_is_read_as_it_is_written(when: str, expected: When | bool) -> None:
    assert _last("train", "prune: {ratio: 0.4}", f"finetune:\n    when: {when}").when == expected


@pytest.mark.parametrize("value", [True, False])
def test_a_variable_may_turn_a_stage_on_and_off(value: bool) -> None:
    text = HEAD + f'vars: {{flag: {str(value).lower()}}}\nstages:\n  - train\n  - finetune:\n    when: "${{flag}}"\n'
    assert Recipe.from_text(text).stages[1].when is value
    assert Recipe.from_text(text, ["vars.flag=true"]).stages[1].when is True
    assert Recipe.from_text(text, ["stages.finetune.when=false"]).stages[1].when is False


@pytest.mark.parametrize(
    ("when", "at", "message", "advice"),
    [
        ("{}", (8, 5), "a condition needs one of `backend`, `device` and `stage`", ""),
        ("{backend: cuda, device: cpu}", (8, 5), "`backend` and `device` are two conditions", ""),
        ("{metric: top1, min: 3}", (8, 5), "`metric` needs `stage`", ""),
        ("{stage: train}", (8, 5), "`stage` needs `metric`", ""),
        ("{stage: train, metric: top1}", (8, 5), "a condition on a `metric` needs a limit: `min`, `max`", ""),
        ("{stage: train, metric: top1, min: 3, max: 2}", (8, 5), "`min` 3 is above `max` 2: it could never hold", ""),
        ("{stage: prune, metric: top1, max_drop: 1}", (8, 5), "`max_drop` needs `vs`", ""),
        ("{stage: prune, metric: top1, min_ratio: 1}", (8, 5), "`min_ratio` needs `vs`", ""),
        ("{stage: prune, metric: top1, min_drop: 2, max_drop: 1, vs: train}", (8, 5), "`min_drop` 2 is above", ""),
        ("{stage: prune, metric: top1, min: 1, vs: train}", (8, 5), "`vs` has nothing to compare: add `max_drop`", ""),
        (
            "{stage: prune, metric: top1, min: 1, unit: points}",
            (8, 5),
            "`unit` belongs to `max_drop` and `min_drop`",
            "",
        ),
        (
            "{stage: train, metric: top1, max_drop: 1, vs: train}",
            (8, 5),
            "`vs: train` compares the stage with itself",
            "",
        ),
        (
            "{stage: train, metric: top1, min: 3, present: true}",
            (8, 5),
            "`present` belongs to `backend` and `device`",
            "",
        ),
        ("{device: cpu, min: 3}", (8, 5), "`min` belongs to a condition on a `stage`, not to one on `device`", ""),
        (
            "{bakend: cuda}",
            (8, 12),
            "unknown key `bakend` for the condition of stage `finetune`",
            "did you mean `backend`?",
        ),
        ("{backend: tensort}", (8, 21), "`backend` must be one of `cuda`, `tensorrt`", "did you mean `tensorrt`?"),
        ("{device: tpu}", (8, 20), "`device` must be one of `cpu`, `cuda`", ""),
        ("{stage: train, metric: top1, min: high}", (8, 45), "`min` must be a number", ""),
        ("{stage: train, metric: top1, max_ratio: 0, vs: prune}", (8, 51), "`max_ratio` must be greater than 0", ""),
        (
            "{stage: prnue, metric: top1, min: 3}",
            (8, 19),
            "no earlier stage has the id `prnue`",
            "did you mean `prune`?",
        ),
        ("{stage: finetune, metric: top1, min: 3}", (8, 19), "`stage: finetune` is this very stage", ""),
        ("{stage: late, metric: top1, min: 3}", (8, 19), "`stage: late` is a later stage", ""),
        (
            "{stage: train, metric: topp1, min: 3}",
            (8, 34),
            "stage `train` reports no metric `topp1`",
            "did you mean `top1`?",
        ),
        (
            "{stage: train, metric: top1, max_drop: 3, vs: trane}",
            (8, 57),
            "no earlier stage has the id `trane`",
            "`train`",
        ),
        (
            "{stage: train, metric: loss, max_ratio: 3, vs: prune}",
            (8, 58),
            "stage `prune` reports no metric `loss`",
            "top1",
        ),
        ("[a]", (8, 11), "`when` must be true, false or a condition, got a list of 1", "e.g. `when: {backend"),
        ("tensorrt", (8, 11), "`when` must be true, false or a condition, got the text", "e.g. `when: {backend"),
        ('"true"', (8, 11), "`when` must be true, false or a condition", "remove the quotes"),
        ("no", (8, 11), "`when` must be true, false or a condition", "YAML 1.2 knows only"),
        ("1", (8, 11), "`when` must be true, false or a condition, got 1", ""),
    ],
)
def test_a_wrong_condition_is_one_fault_where_it_is(when: str, at: tuple[int, int], message: str, advice: str) -> None:
    text = stages("train", "prune: {ratio: 0.4}", f"finetune:\n    when: {when}", "train: {}\n    id: late")
    found = fault(text)
    assert message in found.message
    assert advice in f"{found.label}{found.hint}"
    assert place(found)[:2] == at


def test_a_condition_may_ask_about_a_stage_of_another_tail() -> None:
    text = stages(
        "train", "quantize", "prune: {ratio: 0.4}\n    from: train\n    when: {stage: quantize, metric: top1, max: 97}"
    )
    assert isinstance(Recipe.from_text(text).stages[2].when, When)


@pytest.mark.parametrize("word", ["skip", "stop", "fail"])
def test_otherwise_is_a_word(word: str) -> None:
    assert _last("train", f"finetune:\n    when: {{device: cuda}}\n    otherwise: {word}").otherwise == word


def test_otherwise_is_skip_where_nothing_is_written() -> None:
    assert _last("train", "finetune:\n    when: {device: cuda}").otherwise == "skip"


def test_otherwise_is_a_stage_with_the_id_and_the_path_of_the_one_it_stands_in_for() -> None:
    stage = _last(
        "train",
        "finetune: {epochs: 9}\n    id: tune\n    seed: 7\n    cache: false\n    when: {device: cuda}\n"
        "    gates: [{metric: top1, min: 9}]\n    otherwise: {sparse_train: {epochs: 2}}",
    )
    other = stage.otherwise
    assert isinstance(other, RecipeStage)
    assert (other.id, other.uses, other.options.epochs, other.source) == ("tune", "sparse_train", 2, "train")
    assert (other.seed, other.cache, other.gates) == (7, False, [])
    assert other.surroundings == stage.surroundings


def test_otherwise_may_be_a_bare_name_and_have_keywords_of_its_own() -> None:
    head = "finetune:\n    when: {device: cuda}\n    seed: 1\n    gates: [{metric: top1, min: 9}]\n    otherwise: "
    bare = _last("train", head + "sparse_train").otherwise
    assert isinstance(bare, RecipeStage)
    assert (bare.options.epochs, bare.seed) == (5, 1)
    own = _last("train", head + "{sparse_train: {}, seed: 2, gates: [{metric: loss, max: 1}]}").otherwise
    assert isinstance(own, RecipeStage)
    assert (own.seed, [gate.metric for gate in own.gates]) == (2, ["loss"])


@pytest.mark.parametrize(
    ("otherwise", "at", "message", "advice"),
    [
        ("skpi", (8, 16), "`otherwise` must be `skip`, `stop`, `fail` or a stage", "did you mean `skip`?"),
        ("finetun", (8, 16), "`otherwise` must be `skip`, `stop`, `fail` or a stage", "did you mean `finetune`?"),
        ("3", (8, 16), "`otherwise` must be `skip`, `stop`, `fail` or a stage, got 3", ""),
        ("[train, finetune]", (8, 16), "`otherwise` must be `skip`, `stop`, `fail` or a stage", "it is one stage"),
        ("{trian: {}}", (8, 17), "unknown stage `trian`", "did you mean `train`?"),
        ("{train: {epochz: 3}}", (8, 25), "unknown option `epochz` for stage `train`", "did you mean `epochs`?"),
        ("{train: {epochs: 0}}", (8, 33), "`epochs` must be at least 1", ""),
        ("{train: {}, id: x}", (8, 28), "`id` cannot stand in `otherwise`", "`gates`, `seed` and `cache`"),
        ("{train: {}, when: true}", (8, 28), "`when` cannot stand in `otherwise`", ""),
        ("{train: {}, form: x}", (8, 28), "unknown keyword `form` beside stage `train`", ""),
        ("{prune: {ratio: 0.4, regular: 5}}", (8, 46), "five is worse", ""),
    ],
)
def test_a_wrong_otherwise_is_one_fault_where_it_is(
    otherwise: str, at: tuple[int, int], message: str, advice: str
) -> None:
    found = fault(stages("train", f"finetune:\n    when: {{device: cuda}}\n    otherwise: {otherwise}"))
    assert message in found.message
    assert advice in f"{found.label}{found.hint}"
    assert place(found)[:2] == at


def test_an_otherwise_that_never_happens_is_checked_and_dropped() -> None:
    text = "finetune:\n    when: true\n    otherwise: {{train: {{epochs: {}}}}}"
    assert _last(text.format(2)).otherwise == "skip"
    assert fault(stages(text.format(0))).code == "MC104"


def test_otherwise_needs_a_when() -> None:
    found = fault(stages("train:\n    otherwise: stop"))
    assert (found.code, place(found)) == ("MC133", (6, 5, 9))


def test_a_stage_behind_one_that_may_be_skipped_has_to_work_without_it() -> None:
    found = fault(stages("quantize:\n    when: {device: cuda}", "trt_int8"))
    assert found.message == (
        "`trt_int8` (line 7) needs a model that is quantised, and it is not when `quantize` (line 5) is skipped"
    )
    assert "`otherwise: stop` for `quantize`" in found.hint
    assert place(found) == (7, 5, 8)


@pytest.mark.parametrize("otherwise", ["stop", "fail", "{quantize: {w_bits: 4}}"])
def test_a_stage_behind_one_that_runs_or_ends_the_run_gets_what_it_needs(otherwise: str) -> None:
    assert Recipe.from_text(stages(f"quantize:\n    when: {{device: cuda}}\n    otherwise: {otherwise}", "trt_int8"))


def test_an_alternative_that_does_not_do_the_same_is_named() -> None:
    found = fault(stages("quantize:\n    when: {device: cuda}\n    otherwise: train", "trt_int8"))
    assert "it is not when `train` (line 7) runs in place of `quantize` (line 5)" in found.message


def test_what_a_conditional_stage_takes_away_may_be_gone() -> None:
    found = fault(stages("bn_fuse:\n    when: {device: cuda}", "prune: {ratio: 0.4}"))
    assert found.message.endswith("but `bn_fuse` (line 5) folded them where it runs")
    found = fault(stages("train:\n    when: {device: cuda}\n    otherwise: bn_fuse", "prune: {ratio: 0.4}"))
    assert found.message.endswith("but `bn_fuse` (line 7) folded them where it runs")


def test_what_a_conditional_stage_adds_may_be_there_already() -> None:
    found = fault(stages("quantize", "trt_int8:\n    when: {device: cuda}", "trt_int8"))
    assert found.message.endswith("and `trt_int8` (line 6) provides `deployed` where it runs")


def test_a_stage_that_is_turned_off_neither_gives_nor_takes() -> None:
    text = stages("train", "bn_fuse:\n    when: false", "prune: {ratio: 0.4}")
    around = [one.surroundings for one in Recipe.from_text(text).stages]
    assert around[2].before == around[1].before == ("train",)
    assert around[0].after == ("prune",)
    found = fault(stages("quantize:\n    when: false", "trt_int8"))
    assert found.message.endswith("and `quantize` (line 5), which would make it so, has `when: false`")


def test_a_stage_that_is_turned_off_need_not_fit_but_its_options_must() -> None:
    assert Recipe.from_text(stages("bn_fuse", "prune: {ratio: 0.4, regular: 5}\n    when: false"))
    assert fault(stages("bn_fuse", "prune: {ratio: 4}\n    when: false")).code == "MC104"


def test_one_cause_behind_several_stages_is_said_once() -> None:
    assert len(faults(stages("quantize:\n    when: {device: cuda}", "trt_int8", "trt_int8:\n    from: quantize"))) == 1


def test_both_alternatives_are_seen_by_the_stages_around_them() -> None:
    text = stages("train", "finetune:\n    when: {device: cuda}\n    otherwise: sparse_train", "bn_fuse")
    around = [one.surroundings for one in Recipe.from_text(text).stages]
    assert around[0].after == ("finetune", "sparse_train", "bn_fuse")
    assert around[2].before == ("train", "finetune", "sparse_train")


def test_a_condition_on_a_figure_that_only_one_alternative_reports_is_refused() -> None:
    text = stages(
        "train:\n    when: {device: cuda}\n    otherwise: {prune: {ratio: 0.4}}",
        "finetune:\n    when: {stage: train, metric: loss, max: 3}",
    )
    assert fault(text).message == "stage `prune`, which may run in place of `train`, reports no metric `loss`"
