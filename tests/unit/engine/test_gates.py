from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mcomp.engine.gates import check_gate
from mcomp.errors import StageError
from mcomp.recipe.gates import Gate

METRICS = {"train": {"top1": 98.0, "params": 1000}, "prune": {"top1": 97.2, "params": 600, "name": "text"}}


def gate(**fields: object) -> Gate:
    return Gate.model_validate(fields)


def test_a_drop_is_counted_in_points_unless_percent_is_asked_for() -> None:
    points = check_gate(gate(metric="top1", max_drop=1.0, vs="train"), "prune", METRICS)[0]
    percent = check_gate(gate(metric="top1", max_drop=1.0, vs="train", unit="percent"), "prune", METRICS)[0]
    assert points.value == pytest.approx(0.8)
    assert percent.value == pytest.approx(100 * 0.8 / 98.0)


def test_a_ratio_is_taken_against_the_named_stage() -> None:
    found = check_gate(gate(metric="params", max_ratio=0.5, vs="train"), "prune", METRICS)[0]
    assert (found.value, found.passed) == (0.6, False)


@given(limit=st.floats(0, 100), value=st.floats(0, 100))
def test_min_and_max_include_their_limit(limit: float, value: float) -> None:
    metrics = {"a": {"top1": value}}
    assert check_gate(gate(metric="top1", min=limit), "a", metrics)[0].passed == (value >= limit)
    assert check_gate(gate(metric="top1", max=limit), "a", metrics)[0].passed == (value <= limit)


@pytest.mark.parametrize("metric", ["absent", "name"])
def test_a_figure_that_was_not_reported_is_an_error_not_a_pass(metric: str) -> None:
    with pytest.raises(StageError, match="reported no such figure"):
        check_gate(gate(metric=metric, min=0.0), "prune", METRICS)
