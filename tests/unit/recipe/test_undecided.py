"""A wrong `when` or `otherwise` is one fault: what would be if the stage were skipped is held against nobody."""

from __future__ import annotations

import pytest

from tests.unit.recipe.samples import fault, stages

_WRONG = [
    ("when: {stage: nobody, metric: top1, min: 1}", "MC132"),
    ("when: {stage: quantize, metric: top1, min: 1}", "MC132"),
    ("when: {stage: train, metric: beauty, min: 1}", "MC132"),
    ("when: {stage: train, metric: top1}", "MC104"),
    ("when: perhaps", "MC104"),
    ("when: {device: cuda}\n    otherwise: stpo", "MC133"),
    ("when: {device: cuda}\n    otherwise: [stop]", "MC133"),
    ("when: {device: cuda}\n    otherwise: 3", "MC133"),
    ("otherwise: stop", "MC133"),
]


@pytest.mark.parametrize(("keywords", "code"), _WRONG)
def test_no_stage_behind_it_is_told_what_it_lacks_when_it_is_skipped(keywords: str, code: str) -> None:
    assert fault(stages("train", f"quantize:\n    {keywords}", "trt_int8")).code == code


@pytest.mark.parametrize(
    "keywords", ["when: {stage: nobody, metric: top1, min: 1}", "when: {device: cuda}\n    otherwise: 3"]
)
@pytest.mark.parametrize(
    "asking",
    [
        "gates: [{metric: top1, max_drop: 1, vs: train}]",
        "when: {stage: train, metric: top1, min: 1}\n    otherwise: stop",
    ],
)
def test_no_figure_is_missed_that_it_would_not_report_when_skipped(keywords: str, asking: str) -> None:
    assert fault(stages(f"train:\n    {keywords}", f"quantize:\n    {asking}")).code in ("MC132", "MC133")


def test_what_is_wrong_where_it_runs_is_still_told() -> None:
    text = stages("bn_fuse:\n    when: {device: gpu}", "prune: {ratio: 0.5}")
    assert fault(text.replace("gpu", "cuda")).code == "MC113"
    with pytest.raises(AssertionError):  # both faults
        fault(text)
