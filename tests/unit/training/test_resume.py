from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import settings as how
from hypothesis import strategies as st
from torch import nn

from mcomp.errors import InterruptedRun, StageError
from mcomp.training import random_state
from mcomp.training.optimizers import build_optimizer
from mcomp.training.snapshot import load_optimizer_state, optimizer_state
from tests.unit.training.toys import Kept, ToyData, same_bits, settings, stop_after, toy_net, train

RECIPES: list[dict[str, Any]] = [
    {"optimizer": "sgd", "schedule": "one_cycle", "grad_clip": 1.0},
    {"optimizer": "sgd", "schedule": "multistep", "nesterov": False, "warmup_epochs": 0.5, "label_smoothing": 0.1},
    {"optimizer": "adam", "schedule": "cosine", "lr": 0.01, "warmup_epochs": 1},
    {"optimizer": "adamw", "schedule": "constant", "lr": 0.01, "momentum": 0.8, "checkpoint_every": 2},
    {"optimizer": "sgd", "momentum": 0.0, "augment": False, "decay_norm": True},
    {"optimizer": "sgd", "ema": 0.9, "mixup": 0.3, "cutmix": 1.0, "schedule": "cosine", "label_smoothing": 0.1},
]


class Killed(BaseException):
    """Stands for a process that dies."""


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("recipe", RECIPES, ids=lambda recipe: f"{recipe['optimizer']}-{len(recipe)}")
def test_a_run_stopped_anywhere_goes_on_to_the_same_bits(recipe: dict[str, Any], precision: str) -> None:
    whole = train(settings=recipe, seed=3, precision=precision)
    for steps in (1, 4, 6, 11, 18):  # within an epoch, at its end, at the very end
        kept = Kept()
        with pytest.raises(InterruptedRun) as stopped:
            train(settings=recipe, seed=3, precision=precision, save=kept.save, should_stop=stop_after(steps))
        assert stopped.value.signal_number == 15
        resumed = train(settings=recipe, seed=3, precision=precision, save=kept.save, restore=kept.restore)
        assert same_bits(whole.model, resumed.model)
        assert timeless(whole.history) == timeless(resumed.history)


@how(max_examples=12, deadline=None)
@given(st.lists(st.integers(1, 9), min_size=1, max_size=4))
def test_a_run_killed_without_warning_goes_on_from_the_last_epoch_to_the_same_bits(lives: list[int]) -> None:
    whole, kept = train(seed=1), Kept()

    for steps in lives:
        count = 0

        def die(_model: nn.Module, _step: int, steps: int = steps) -> None:
            nonlocal count
            count += 1
            if count == steps:
                raise Killed

        try:
            train(seed=1, save=kept.save, restore=kept.restore, after_step=die)
        except Killed:
            torch.rand(5)  # a new process would not have this one's generators either
    resumed = train(seed=1, save=kept.save, restore=kept.restore)
    assert same_bits(whole.model, resumed.model)
    assert timeless(whole.history) == timeless(resumed.history)


def test_a_finished_run_is_not_trained_again() -> None:
    kept = Kept()
    whole = train(save=kept.save)
    steps: list[int] = []
    again = train(restore=kept.restore, after_step=lambda _model, step: steps.append(step))
    assert steps == []
    assert same_bits(whole.model, again.model)
    assert whole.history == again.history


@pytest.mark.parametrize(("every", "saved"), [(1, 5), (2, 3), (5, 1), (9, 1)])
def test_snapshots_come_every_so_many_epochs_and_at_the_end(every: int, saved: int) -> None:
    kept = Kept()
    train(save=kept.save, settings={"epochs": 5, "checkpoint_every": every})
    assert kept.saved == saved


def test_a_snapshot_says_how_far_it_is() -> None:
    kept = Kept()
    with pytest.raises(InterruptedRun):
        train(save=kept.save, should_stop=stop_after(8))
    state = kept.restore()
    assert state is not None
    assert (state["epoch"], state["epochs"], state["step"], state["steps"]) == (1, 3, 2, 6)


def test_another_thread_count_is_spoken_of(monkeypatch: pytest.MonkeyPatch) -> None:
    kept = Kept()
    train(save=kept.save)
    lines: list[str] = []
    monkeypatch.setattr(torch, "get_num_threads", lambda: 77)
    train(restore=kept.restore, log=lines.append)
    assert len(lines) == 1
    assert "77 threads" in lines[0]
    assert "bits" in lines[0]


def test_a_snapshot_of_another_network_is_refused() -> None:
    kept = Kept()
    train(save=kept.save)
    with pytest.raises(StageError, match="another network") as caught:
        train(nn.Sequential(nn.Flatten(), nn.Linear(36, 3)), restore=kept.restore)
    assert caught.value.code == "MC405"


def test_a_snapshot_of_another_format_is_left_alone() -> None:
    lines: list[str] = []
    result = train(restore=lambda: {"format": 99}, log=lines.append)
    assert same_bits(result.model, train().model)
    assert "starts over" in lines[0]


def test_buffers_outside_the_state_dict_survive_a_resume() -> None:
    class Counter(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("calls", torch.zeros(()), persistent=False)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            if self.training:
                self.calls += 1
            return x

    kept = Kept()
    with pytest.raises(InterruptedRun):
        train(nn.Sequential(Counter(), *toy_net()), save=kept.save, should_stop=stop_after(8))
    resumed = train(nn.Sequential(Counter(), *toy_net()), restore=kept.restore)
    assert resumed.model[0].calls == 18  # type: ignore[index]


def test_the_generators_go_through_a_snapshot() -> None:
    import random

    import numpy as np

    with random_state.seeded(4, "cpu"):
        state = random_state.capture("cpu")
        first = (random.random(), random.gauss(0, 1), np.random.rand(), torch.rand(3).tolist())
        random_state.restore(state, "cpu")
        assert (random.random(), random.gauss(0, 1), np.random.rand(), torch.rand(3).tolist()) == first


def test_an_interrupt_before_the_last_lone_image_is_not_confused_by_it() -> None:
    whole, kept = train(data=ToyData(train=25)), Kept()
    with pytest.raises(InterruptedRun):
        train(data=ToyData(train=25), save=kept.save, should_stop=stop_after(3))
    assert same_bits(whole.model, train(data=ToyData(train=25), restore=kept.restore).model)


def timeless(history: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The history without what a clock says."""
    return [{key: row[key] for key in row.keys() - {"seconds", "images_per_s"}} for row in history]


def test_optimiser_state_takes_the_memory_layout_of_its_parameter() -> None:
    layer = nn.Conv2d(4, 6, 3).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    optimizer = build_optimizer(layer, settings())
    state = optimizer_state(optimizer)
    momentum = torch.randn(6, 4, 3, 3)  # as a store might give it back: contiguous
    state["state"][0]["momentum_buffer"] = momentum
    load_optimizer_state(optimizer, state)
    loaded = optimizer.state[layer.weight]["momentum_buffer"]
    assert loaded.stride() == layer.weight.stride() != momentum.stride()
    assert torch.equal(loaded, momentum)
