"""When snapshots are taken, and that none of them changes what is trained."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from torch import nn

from mcomp.engine.keys import keyed_options
from mcomp.pruning import BNPenalty, GroupLasso, GrowingPenalty, sparsify
from mcomp.quantization import calibrate, quantize
from mcomp.training import TrainSettings
from tests.unit.training.test_resume import Killed, timeless
from tests.unit.training.toys import Kept, ToyData, same_bits, toy_net, train


@pytest.mark.parametrize(
    ("every", "saved"),
    [
        ({"steps": 4}, [4, 8, 12, 16, 18]),
        ({"steps": 6}, [6, 12, 18]),
        ({"steps": 100}, [18]),
        ({"epochs": 1, "steps": 4}, [4, 6, 10, 12, 16, 18]),
        ({"epochs": 2, "seconds": 1e-9}, list(range(1, 19))),
        ({"seconds": 1e9}, [18]),
        (2, [12, 18]),
    ],
)
def test_a_snapshot_comes_with_whatever_is_first(every: Any, saved: list[int]) -> None:
    seen: list[int] = []
    train(settings={"checkpoint_every": every}, save=lambda state: seen.append(6 * state["epoch"] + state["step"]))
    assert seen == saved


def test_a_long_epoch_is_protected_without_being_asked() -> None:
    default = TrainSettings().checkpoint_every
    assert default.epochs == 1
    assert default.seconds == 300


@pytest.mark.parametrize("wrong", [0, -1, True, "often", None, 1.5, {}, {"epoch": 1}, {"steps": 0}, {"seconds": 0}])
def test_what_says_no_moment_is_refused(wrong: Any) -> None:
    with pytest.raises(ValidationError):
        TrainSettings(checkpoint_every=wrong)


@pytest.mark.parametrize("every", [3, {"steps": 7}, {"seconds": 0.5, "epochs": 2}])
def test_how_often_snapshots_are_taken_is_no_part_of_a_key(every: Any) -> None:
    assert keyed_options(TrainSettings(checkpoint_every=every)) == keyed_options(TrainSettings())


def test_settings_survive_their_own_json() -> None:
    settings = TrainSettings(checkpoint_every={"steps": 7})  # type: ignore[arg-type]
    assert TrainSettings.model_validate(settings.model_dump(mode="json")) == settings


def quantised(bits: int) -> nn.Module:
    data = ToyData()
    model = quantize(toy_net(), data.example_inputs, w_bits=bits, a_bits=bits, first_layer_float=False)
    calibrate(model, data.train.batches(8), "mse")
    return model


PENALTIES: dict[str, Callable[[], Any]] = {
    "sparse": lambda: BNPenalty(1e-2),
    "sparse_subgradient": lambda: BNPenalty(1e-2, mode="subgradient"),
    "group_lasso": lambda: GroupLasso(0.1),
    "growing": lambda: GrowingPenalty(1.0, rises=5),
}


def network(kind: str) -> nn.Module:
    if kind.startswith("quantised"):
        return quantised(int(kind[-1]))
    if kind.startswith("masked"):
        return sparsify(toy_net(), ToyData().example_inputs, ratio=0.5).model
    return toy_net()


@pytest.mark.parametrize("kind", [*PENALTIES, "adam", "quantised_8", "quantised_3", "masked", "masked_group_lasso"])
def test_every_kind_of_training_killed_at_any_step_goes_on_to_the_same_bits(kind: str) -> None:
    def once(**arguments: Any) -> Any:
        make = PENALTIES.get(kind.removeprefix("masked_"))
        how = {"checkpoint_every": {"steps": 4}, "optimizer": "adam" if kind == "adam" else "sgd", "lr": 0.02}
        return train(network(kind), settings=how, seed=7, penalty=None if make is None else make(), **arguments)

    whole = once()
    for at in (1, 5, 6, 10, 17):

        def die(_model: nn.Module, step: int, at: int = at) -> None:
            if step == at:
                raise Killed

        kept = Kept()
        with pytest.raises(Killed):
            once(save=kept.save, restore=kept.restore, after_step=die)
        torch.rand(3)
        resumed = once(save=kept.save, restore=kept.restore)
        assert same_bits(whole.model, resumed.model)
        assert timeless(whole.history) == timeless(resumed.history)


def test_a_snapshot_of_a_window_on_a_large_tensor_holds_the_window_only() -> None:
    class Shared(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("window", torch.zeros(100_000)[:3])

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x

    kept = Kept()
    train(nn.Sequential(Shared(), *toy_net()), save=kept.save)
    assert kept.bytes is not None
    assert len(kept.bytes) < 100_000
