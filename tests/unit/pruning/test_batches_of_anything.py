"""Targets for networks that are called with more than plain tensors."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mcomp.metrics import count, model_latency
from mcomp.metrics.samples import first_sample, samples_of, with_samples
from mcomp.pruning import prune
from mcomp.pruning.targets import TOLERANCE
from tests.unit.pruning.pruning_nets import images, seeded


class Anything(nn.Module):
    """Takes images, alone or in a dictionary, beside a factor that may be left out."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 24, 3, padding=1), nn.Conv2d(24, 32, 3, padding=1)
        self.out = nn.Linear(32, 5)

    def forward(self, x: Tensor | dict[str, Tensor], scale: float | None = None) -> Tensor:
        x = x["image"] if isinstance(x, dict) else x
        x = F.relu(self.second(F.relu(self.first(x if scale is None else x * scale))))
        return self.out(x.mean((2, 3)))  # type: ignore[no-any-return]


class InPlace(Anything):
    """Normalises its input where it stands."""

    def forward(self, x: Any, scale: float | None = None) -> Tensor:
        return super().forward(x.sub_(0.5), scale)


IMAGES = images(count=4)
CALLS = pytest.mark.parametrize(
    "inputs", [({"image": IMAGES},), (IMAGES, None), (IMAGES, 2.0)], ids=["a dictionary", "None", "a number"]
)


@CALLS
@pytest.mark.parametrize("how", [{"macs": 0.5}, {"params": 0.5}], ids=str)
def test_a_target_is_reached_whatever_the_network_is_called_with(
    inputs: tuple[Any, ...], how: dict[str, float]
) -> None:
    plain = prune(seeded(Anything()), (IMAGES,), importance="l1", **how)  # type: ignore[arg-type]
    result = prune(seeded(Anything()), inputs, importance="l1", **how)  # type: ignore[arg-type]
    assert (result.macs_before, result.macs_after) == (plain.macs_before, plain.macs_after)
    (name,) = how
    assert getattr(result, f"{name}_after") / getattr(result, f"{name}_before") == pytest.approx(0.5, rel=TOLERANCE)


@CALLS
def test_a_time_is_measured_whatever_the_network_is_called_with(inputs: tuple[Any, ...]) -> None:
    assert prune(seeded(Anything()), inputs, latency_ms=1e4, importance="l1").macs_before > 0
    assert model_latency(Anything(), inputs, warmup=0, runs=1).median_ms > 0


@CALLS
def test_costs_are_those_of_one_sample_whatever_holds_the_batch(inputs: tuple[Any, ...]) -> None:
    assert count(Anything(), inputs) == count(Anything(), (IMAGES[:1],))


def test_counting_towards_a_target_does_not_write_into_the_example_inputs() -> None:
    given = IMAGES.clone()
    prune(seeded(InPlace()), (given,), macs=0.5, importance="l1")
    assert torch.equal(given, IMAGES)


def test_samples_are_taken_of_what_has_them_and_nothing_else() -> None:
    mask, batch = torch.ones(6, 6), {"image": IMAGES, "scale": torch.tensor(2.0), "name": "a"}
    assert samples_of((None, batch, mask)) == 4
    (nothing, taken, same) = first_sample((None, batch, mask))
    assert nothing is None
    assert taken["image"].shape == (1, 3, 8, 8)
    assert (taken["scale"], taken["name"], same.shape) == (2.0, "a", (6, 6))
    assert taken["image"].data_ptr() != IMAGES.data_ptr()
    (wide,) = with_samples((IMAGES,), 6)
    assert torch.equal(wide, torch.cat([IMAGES, IMAGES[:2]]))
    assert samples_of(("no tensor",)) == 1
