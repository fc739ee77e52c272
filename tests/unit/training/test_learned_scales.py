"""Scales that train take no leap, whatever the optimiser and the gradient; everything else steps as it would."""

from __future__ import annotations

import copy

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from mcomp.quantization.quantizers import DoReFaActivation, LSQPlusQuantizer, LSQuantizer, PACTQuantizer
from mcomp.training.learned_scales import MOST, learned_scales
from mcomp.training.optimizers import build_optimizer
from mcomp.training.settings import TrainSettings


class Scaled(nn.Module):
    learned_scales = ("scale",)

    def __init__(self, scale: float) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(scale))
        self.weight = nn.Parameter(torch.ones(3, 3))


@given(
    st.floats(1e-6, 10),
    st.lists(st.floats(-1e4, 1e4), min_size=1, max_size=20),
    st.sampled_from(["sgd", "adam", "adamw"]),
)
def test_no_step_changes_a_scale_by_more_than_a_twentieth(scale: float, gradients: list[float], kind: str) -> None:
    model = Scaled(scale)
    optimizer = build_optimizer(model, TrainSettings.model_validate({"optimizer": kind, "lr": 0.5}))
    for gradient in gradients:
        before = model.scale.item()
        model.scale.grad = torch.tensor(gradient)
        optimizer.step()
        after = model.scale.item()
        assert after > 0
        assert abs(after - before) <= MOST * before * (1 + 1e-5)


@pytest.mark.parametrize("kind", ["sgd", "adam", "adamw"])
def test_small_steps_and_other_parameters_are_those_of_the_optimiser(kind: str) -> None:
    model = Scaled(2.0)
    plain = copy.deepcopy(model)
    plain.learned_scales = ()  # type: ignore[assignment]
    settings = TrainSettings.model_validate({"optimizer": kind, "lr": 0.01})
    for each in (model, plain):
        optimizer = build_optimizer(each, settings)
        for step in range(4):
            torch.manual_seed(step)
            each.scale.grad, each.weight.grad = torch.randn(()), 1e3 * torch.randn(3, 3)
            optimizer.step()
    assert torch.equal(model.scale, plain.scale)
    assert torch.equal(model.weight, plain.weight)


def test_every_learned_grid_names_its_scale_and_frozen_ones_are_left_alone() -> None:
    model = nn.ModuleList([LSQuantizer(4), LSQPlusQuantizer(4), PACTQuantizer(4), DoReFaActivation(4)])
    scales = learned_scales(model)
    named = [name for name, each in model.named_parameters() if any(each is scale for scale in scales)]
    assert named == ["0.scale", "1.scale", "2.alpha"]
    for quantizer in model:
        quantizer.freeze()  # type: ignore[operator]
    assert learned_scales(model) == []


def test_a_fine_grid_survives_a_learning_rate_made_for_a_coarse_one() -> None:
    """Without the bound the scale of 8 bits is below zero after four steps, and the layer is dead for good."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(16, 16), LSQuantizer(8), nn.Linear(16, 2)).train()
    optimizer = build_optimizer(model, TrainSettings.model_validate({"lr": 0.5, "momentum": 0.9}))
    x = torch.randn(64, 16)
    for _ in range(60):
        optimizer.zero_grad()
        (100 * nn.functional.cross_entropy(model(x), (x[:, 0] > 0).long())).backward()
        optimizer.step()
        assert float(model[1].scale.detach()) > 1e-4  # type: ignore[union-attr]
