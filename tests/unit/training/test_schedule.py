from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from mcomp.training import TrainSettings, learning_rate

SCHEDULES = ("multistep", "cosine", "one_cycle", "constant")


def rates(steps_per_epoch: int = 10, **chosen: Any) -> list[float]:
    settings = TrainSettings(**chosen)
    return [learning_rate(settings, step, steps_per_epoch) for step in range(settings.epochs * steps_per_epoch)]


@given(st.sampled_from(SCHEDULES), st.integers(1, 12), st.integers(1, 30), st.floats(0, 0.9))
def test_no_schedule_leaves_the_range_from_zero_to_the_peak(kind: str, epochs: int, steps: int, warm: float) -> None:
    found = rates(steps, schedule=kind, epochs=epochs, lr=0.3, warmup_epochs=warm)
    assert all(0 < rate <= 0.3 * (1 + 1e-12) for rate in found)


@given(st.sampled_from(SCHEDULES), st.integers(2, 8), st.integers(2, 20))
def test_after_the_peak_a_rate_never_rises(kind: str, epochs: int, steps: int) -> None:
    found = rates(steps, schedule=kind, epochs=epochs, warmup_epochs=1)
    falling = found[found.index(max(found)) :]
    assert falling == sorted(falling, reverse=True)


def test_multistep_falls_by_gamma_at_shares_and_at_epochs_alike() -> None:
    shares = rates(schedule="multistep", epochs=8, lr=1, gamma=0.5, milestones=[0.5, 0.75])
    epochs = rates(schedule="multistep", epochs=8, lr=1, gamma=0.5, milestones=[4, 6])
    assert shares == epochs == [1.0] * 40 + [0.5] * 20 + [0.25] * 20


def test_a_milestone_share_that_is_no_exact_float_comes_on_time() -> None:
    assert rates(schedule="multistep", epochs=3, lr=1, milestones=[0.1], gamma=0.5).index(0.5) == 3


def test_cosine_is_half_way_down_in_the_middle_and_nearly_zero_at_the_end() -> None:
    found = rates(schedule="cosine", epochs=10, lr=1)
    assert found[0] == 1
    assert found[50] == pytest.approx(0.5)
    assert found[-1] < 1e-3


def test_warm_up_rises_in_equal_steps_to_the_full_rate() -> None:
    found = rates(schedule="constant", epochs=2, lr=1, warmup_epochs=0.5)
    assert found[:5] == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0])
    assert found[5:] == [1.0] * 15


def test_one_cycle_peaks_after_its_rise_only() -> None:
    found = rates(schedule="one_cycle", epochs=10, lr=1)
    assert found[0] == pytest.approx(1 / 25)
    assert found.index(max(found)) == 30
    longer = rates(schedule="one_cycle", epochs=10, lr=1, warmup_epochs=5)
    assert longer.index(max(longer)) == 50


@pytest.mark.parametrize(
    ("chosen", "words"),
    [
        ({"milestones": [0.75, 0.5]}, "must rise"),
        ({"epochs": 10, "milestones": [0.5, 4]}, "must rise"),
        ({"milestones": [0.5, 0.5]}, "must rise"),
        ({"milestones": [0]}, "not above 0"),
        ({"milestones": [2.5]}, "neither a share below 1 nor a whole epoch"),
        ({"epochs": 2, "warmup_epochs": 2}, "leaves none of the 2 epochs"),
        ({"lr": 0}, "greater than 0"),
        ({"lr": float("nan")}, "finite"),
        ({"epochs": 0}, "greater than or equal to 1"),
        ({"momentum": 1.0}, "less than 1"),
        ({"optimizer": "lion"}, "'sgd', 'adam' or 'adamw'"),
    ],
)
def test_settings_that_make_no_sense_are_refused_in_words(chosen: dict[str, Any], words: str) -> None:
    with pytest.raises(ValidationError, match=words):
        TrainSettings(**chosen)


def test_every_setting_is_described() -> None:
    assert all(field.description for field in TrainSettings.model_fields.values())


def test_only_the_snapshot_interval_stays_out_of_the_action_key() -> None:
    extras = {name: field.json_schema_extra for name, field in TrainSettings.model_fields.items()}
    assert [name for name, extra in extras.items() if extra == {"cache": "ignore"}] == ["checkpoint_every"]
