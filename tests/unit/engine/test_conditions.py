from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mcomp.engine.backends import BACKENDS, Backend, backends
from mcomp.engine.conditions import Facts, decide
from mcomp.errors import StageError
from mcomp.recipe.conditions import When

METRICS = {"train": {"top1": 98.0, "zero": 0.0}, "prune": {"top1": 97.2, "zero": 0.0, "odd": "nan", "name": "x"}}
CPU = Facts("cpu")


def when(**fields: object) -> When:
    return When.model_validate(fields)


def facts(**present: bool) -> Facts:
    found = Facts("cuda:1")
    found.__dict__["backends"] = {
        name: Backend(name, here, why_absent="" if here else "it is not installed") for name, here in present.items()
    }
    return found


def test_a_plain_truth_needs_no_figures() -> None:
    assert decide(True, {}, CPU).holds is True
    refused = decide(False, {}, CPU)
    assert (refused.holds, refused.text) == (False, "its `when` is false")


@pytest.mark.parametrize("present", [True, False])
def test_a_backend_is_looked_for_and_its_absence_explained(present: bool) -> None:
    found = decide(when(backend="tensorrt"), {}, facts(tensorrt=present))
    assert found.holds is present
    assert found.text == ("tensorrt is present" if present else "tensorrt is absent: it is not installed")
    assert decide(when(backend="tensorrt", present=False), {}, facts(tensorrt=present)).holds is not present


def test_a_device_is_compared_by_its_kind() -> None:
    assert decide(when(device="cuda"), {}, Facts("cuda:1")).holds is True
    assert decide(when(device="cuda"), {}, CPU).holds is False
    assert decide(when(device="cuda", present=False), {}, CPU).holds is True


@given(limit=st.floats(0, 100), value=st.floats(0, 100))
def test_min_and_max_include_their_limit(limit: float, value: float) -> None:
    metrics = {"a": {"top1": value}}
    assert decide(when(stage="a", metric="top1", min=limit), metrics, CPU).holds == (value >= limit - 1e-9)
    assert decide(when(stage="a", metric="top1", max=limit), metrics, CPU).holds == (value <= limit + 1e-9)


@given(before=st.floats(1, 100), after=st.floats(1, 100), limit=st.floats(0, 50))
def test_min_drop_and_max_drop_are_opposites(before: float, after: float, limit: float) -> None:
    metrics = {"a": {"top1": before}, "b": {"top1": after}}
    least = decide(when(stage="b", metric="top1", min_drop=limit, vs="a"), metrics, CPU)
    most = decide(when(stage="b", metric="top1", max_drop=limit, vs="a"), metrics, CPU)
    assert least.holds or most.holds
    assert (least.holds and most.holds) == (abs(before - after - limit) <= 1e-9)


def test_the_reason_names_figures_and_limit() -> None:
    found = decide(when(stage="prune", metric="top1", min_drop=1.0, vs="train"), METRICS, CPU)
    assert found.holds is False
    assert found.text == "the drop of top1 from `train` to `prune` is 0.8 points, not at least 1"
    percent = decide(when(stage="prune", metric="top1", min_drop=0.5, vs="train", unit="percent"), METRICS, CPU)
    assert percent.holds is True
    assert "0.816327 percent" in percent.text


def test_every_rule_of_a_condition_has_to_hold() -> None:
    assert decide(when(stage="prune", metric="top1", min=97, max=98), METRICS, CPU).holds is True
    assert decide(when(stage="prune", metric="top1", min=97, max=97.1), METRICS, CPU).holds is False


@pytest.mark.parametrize("metrics", [{}, {"train": {"top1": 98.0}}, {"train": {"top1": 98.0}, "prune": None}])
def test_what_is_not_known_yet_decides_nothing(metrics: dict[str, dict[str, float] | None]) -> None:
    found = decide(when(stage="prune", metric="top1", max_ratio=0.9, vs="train"), metrics, CPU)
    assert (found.holds, found.text) == (None, "if top1 of `prune` over that of `train` is at most 0.9")


@pytest.mark.parametrize("metric", ["absent", "odd", "name"])
def test_a_figure_that_is_no_number_is_an_error_not_a_guess(metric: str) -> None:
    with pytest.raises(StageError) as error:
        decide(when(stage="prune", metric=metric, min=0), METRICS, CPU)
    assert error.value.code == "MC502"


@pytest.mark.parametrize("rule", [{"max_ratio": 1.0}, {"max_drop": 1.0, "unit": "percent"}])
def test_dividing_by_nothing_is_an_error(rule: dict[str, object]) -> None:
    with pytest.raises(StageError, match="which is 0"):
        decide(when(stage="prune", metric="zero", vs="train", **rule), METRICS, CPU)


def test_every_backend_is_either_present_or_says_why_not() -> None:
    found = backends()
    assert tuple(found) == BACKENDS
    for name, backend in found.items():
        assert backend.name == name
        assert backend.present != bool(backend.why_absent)
