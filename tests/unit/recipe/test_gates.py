from __future__ import annotations

import pytest

from mcomp.recipe import Recipe
from tests.unit.recipe.samples import fault, place, stages

MAYBE = "when: {device: cuda}"


def _gated(*entries: str, gate: str) -> str:
    return stages(*entries, f"finetune:\n    id: last\n    gates: [{gate}]")


@pytest.mark.parametrize("metric", ["loss", "params", "macs", "bytes", "latency_ms"])
def test_a_drop_of_what_is_better_when_low_is_warned_of(metric: str) -> None:
    text = _gated("train", gate=f"{{metric: {metric}, max_drop: 1, vs: train}}")
    (warning,) = Recipe.from_text(text).warnings
    assert (warning.code, warning.line, warning.length) == ("MC134", 8, len("max_drop"))
    assert warning.column == text.split("\n")[7].index("max_drop") + 1
    assert f"a lower `{metric}` is better" in warning.message
    assert "`max_ratio`" in warning.hint
    assert "`max`" in warning.hint


@pytest.mark.parametrize(
    "gate",
    ["{metric: top1, max_drop: 1, vs: train}", "{metric: params, max_ratio: 1, vs: train}", "{metric: loss, max: 1}"],
)
def test_a_gate_that_says_what_it_means_is_not_warned_of(gate: str) -> None:
    assert Recipe.from_text(_gated("train", gate=gate)).warnings == []


def test_a_gate_of_two_alternatives_names_a_metric_of_both() -> None:
    text = stages(f"train:\n    {MAYBE}\n    otherwise: quantize\n    gates: [{{metric: loss, max: 1}}]")
    found = fault(text)
    assert found.message == "stage `quantize`, which may run in place of `train`, reports no metric `loss`"
    assert place(found)[:2] == (8, 22)


def test_a_skipped_stage_is_compared_with_by_the_figures_of_its_source() -> None:
    assert Recipe.from_text(
        _gated("train", f"sparse_train:\n    {MAYBE}", gate="{metric: loss, max_ratio: 1, vs: sparse_train}")
    )


def test_a_skipped_stage_whose_source_has_no_such_figure_is_no_reference() -> None:
    text = stages(
        "train",
        "prune: {ratio: 0.4}",
        f"finetune:\n    {MAYBE}",
        "train:\n    id: last\n    gates: [{metric: loss, max_ratio: 1, vs: finetune}]",
    )
    found = fault(text)
    assert found.message == (
        "stage `prune` reports no metric `loss` to compare with (its figures stand for `finetune` when skipped)"
    )


def test_a_first_stage_that_may_be_skipped_is_no_reference() -> None:
    found = fault(_gated(f"train:\n    {MAYBE}", gate="{metric: top1, max_drop: 1, vs: train}"))
    assert "there is no `top1` to compare with when `train` (line 5) is skipped" in found.message
    assert "`otherwise: stop`" in found.hint
    assert Recipe.from_text(
        _gated(f"train:\n    {MAYBE}\n    otherwise: stop", gate="{metric: top1, max_drop: 1, vs: train}")
    )


def test_an_alternative_without_the_figure_is_no_reference() -> None:
    found = fault(
        _gated(
            "train",
            f"sparse_train:\n    {MAYBE}\n    otherwise: {{prune: {{ratio: 0.4}}}}",
            gate="{metric: loss, max_ratio: 1, vs: sparse_train}",
        )
    )
    assert found.message == (
        "stage `prune`, which may run in place of `sparse_train`, reports no metric `loss` to compare with"
    )


def test_a_stage_that_is_turned_off_is_compared_with_by_its_source_alone() -> None:
    text = stages(
        "train",
        "prune: {ratio: 0.4}\n    when: false",
        "finetune:\n    gates: [{metric: loss, max_ratio: 1, vs: prune}]",
    )
    assert Recipe.from_text(text)
