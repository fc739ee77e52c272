from __future__ import annotations

from typing import Any

import pytest

from mcomp.recipe import Recipe
from mcomp.stages import registry
from mcomp.stages.base import Finding, Surroundings, Traits
from tests.unit.recipe.samples import fault, faults, place, stages


def test_prune_after_bn_fuse_names_both_lines() -> None:
    found = fault(stages("train", "bn_fuse", "prune: {ratio: 0.5}"))
    assert found.code == "MC113"
    assert found.message == (
        "`prune` (line 7) needs a model whose batch norms are not folded, but `bn_fuse` (line 6) folded them"
    )
    assert found.hint == "move `prune` before `bn_fuse`"
    assert place(found) == (7, 5, 5)


def test_a_trait_that_nobody_gave_names_the_stages_that_give_it() -> None:
    found = fault(stages("train", "trt_int8"))
    assert "needs a model that is quantised, and no stage before it makes it so" in found.message
    assert found.hint == "put `quantize` before it"


def test_one_misplaced_stage_is_one_fault_whose_hint_is_the_place_behind_all_that_suffer() -> None:
    found = fault(stages("bn_fuse", "prune: {ratio: 0.5}", "train", "quantize"))
    assert found.message.startswith("`prune` (line 6) needs a model whose batch norms are not folded")
    assert found.hint == "move `bn_fuse` after `quantize` (line 8)"


def test_a_misplaced_stage_is_not_sent_behind_one_that_needs_it(monkeypatch: pytest.MonkeyPatch) -> None:
    quantize = registry.get("quantize")
    monkeypatch.setattr(quantize, "traits", Traits(requires={"float"}, provides={"quantized"}, destroys={"float"}))
    found = fault(stages("quantize", "train", "trt_int8", "train"))
    assert found.hint == "move `train` before `quantize`"


def test_a_misplaced_stage_is_not_sent_behind_one_of_another_branch() -> None:
    found = fault(stages("train", "bn_fuse", "prune: {ratio: 0.5}", "quantize: {}\n    from: bn_fuse"))
    assert found.hint == "move `prune` before `bn_fuse`"


def test_the_earliest_of_several_culprits_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    quantize = registry.get("quantize")
    monkeypatch.setattr(
        quantize, "traits", Traits(requires={"float", "bn"}, provides={"quantized"}, destroys={"float"})
    )
    found = fault(stages("quantize", "bn_fuse", "prune: {ratio: 0.5}"))
    assert found.message.endswith("whose weights are floating-point, but `quantize` (line 5) quantised them")


def test_a_second_fold_is_one_too_many() -> None:
    assert fault(stages("bn_fuse", "bn_fuse")).hint == "remove one of the two `bn_fuse`"


def test_two_stages_that_exclude_each_other_are_refused() -> None:
    found = fault(stages("quantize", "trt_int8", "trt_int8"))
    assert "`trt_int8` (line 7) cannot take a model with the trait `deployed`, and `trt_int8` (line 6)" in found.message
    assert found.hint == "remove one of the two `trt_int8`"


def test_the_same_missing_trait_is_said_once() -> None:
    assert len(faults(stages("train", "trt_int8", "train", "trt_int8"))) == 2


def test_behind_an_unknown_stage_only_what_is_certain_is_said() -> None:
    found = faults(stages("magic", "trt_int8", "bn_fuse", "prune: {ratio: 0.5}"))
    assert [one.code for one in found] == ["MC106", "MC113"]


def test_a_stage_set_on_the_command_line_is_named_by_its_set() -> None:
    found = fault(stages("bn_fuse", "train"), "stages[1]={prune: {ratio: 0.4}}")
    assert "`prune` (--set #1) needs" in found.message
    assert found.file == "--set #1"


def test_findings_of_a_stage_point_at_its_option() -> None:
    found = fault(stages("prune: {ratio: 0.5, regular: 5}"))
    assert (found.message, found.hint, *place(found)) == ("five is worse", "use 4", 5, 34, 1)
    warned = Recipe.from_text(stages("prune: {ratio: 0.5, regular: 3}")).warnings
    assert [(one.message, one.line, one.column) for one in warned] == [("three is odd", 5, 34)]


def test_a_gate_may_name_common_metrics_and_earlier_ids() -> None:
    recipe = Recipe.from_text(
        stages(
            "train: {}\n    id: base",
            "bn_fuse:\n    gates: [{metric: latency_ms, max: 5}, {metric: bytes, max_ratio: 1, vs: base}]",
        )
    )
    assert [gate.metric for gate in recipe.stages[1].gates] == ["latency_ms", "bytes"]


def test_null_options_are_no_options() -> None:
    assert Recipe.from_text(stages("train:", "bn_fuse: ")).stages[0].options.epochs == 5


def test_a_stage_is_not_blamed_for_what_a_misplaced_one_behind_it_will_give(monkeypatch: pytest.MonkeyPatch) -> None:
    def check(options: Any, around: Surroundings) -> list[Finding]:
        odd = [Finding("seven is odd", ("epochs",))] if options.epochs == 7 else []
        return odd if "quantized" in around.have else [*odd, Finding("it is still float")]

    monkeypatch.setattr(registry.get("train"), "check", check)
    found = fault(stages("bn_fuse", "train", "quantize"))
    assert found.hint == "move `quantize` before `bn_fuse`"
    assert [one.message for one in faults(stages("bn_fuse", "train"))] == ["it is still float"]
    both = faults(stages("bn_fuse", "train: {epochs: 7}", "quantize"))
    assert [one.code for one in both] == ["MC120", "MC113"]
