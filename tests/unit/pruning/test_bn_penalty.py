"""The pull on batch-norm scales, as formulas."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from mcomp.errors import StageError, UsageError
from mcomp.pruning import BNPenalty
from tests.unit.pruning.pruning_nets import block, head, images


def model_with(gamma: list[float]) -> nn.Sequential:
    model = nn.Sequential(block(3, len(gamma)), block(len(gamma), 4))
    with torch.no_grad():
        model.get_submodule("0.1").weight.copy_(torch.tensor(gamma))
    return model


@given(st.lists(st.floats(-1, 1, width=32), min_size=2, max_size=8), st.floats(1e-4, 1e-1), st.floats(1e-5, 1e-1))
def test_the_decoupled_pull_shrinks_by_ten_times_rate_times_strength_and_stops_at_zero(
    gamma: list[float], strength: float, lr: float
) -> None:
    model = model_with(gamma)
    BNPenalty(strength).after_step(model, lr, 1)
    before = torch.tensor(gamma)
    expected = before.sign() * (before.abs() - 10 * lr * strength).clamp(min=0)
    torch.testing.assert_close(model.get_submodule("0.1").weight.detach(), expected)


def test_the_decoupled_pull_leaves_gradients_alone() -> None:
    model = model_with([0.5, -0.5])
    BNPenalty(0.1).before_step(model)
    assert all(parameter.grad is None for parameter in model.parameters())


def test_the_subgradient_adds_the_strength_with_the_sign_of_gamma() -> None:
    model = model_with([0.5, -0.5, 0.0])
    gamma = model.get_submodule("0.1").weight
    gamma.grad = torch.ones(3)
    penalty = BNPenalty(0.25, mode="subgradient")
    penalty.before_step(model)
    penalty.after_step(model, 0.1, 1)
    assert gamma.grad.tolist() == [1.25, 0.75, 1.0]
    assert gamma.tolist() == [0.5, -0.5, 0.0]


def test_excluded_norms_are_left_alone() -> None:
    model = model_with([0.5, -0.5])
    BNPenalty(1.0, exclude=["0.*"]).after_step(model, 0.1, 1)
    assert model.get_submodule("0.1").weight.tolist() == [0.5, -0.5]
    assert model.get_submodule("1.1").weight.tolist() == [0.0] * 4


def test_scales_that_take_no_gradient_stay_as_they_are() -> None:
    model = model_with([0.5, -0.5])
    model.get_parameter("0.1.weight").requires_grad_(False)
    BNPenalty(1.0).after_step(model, 0.1, 1)
    assert model.get_parameter("0.1.weight").tolist() == [0.5, -0.5]
    assert model.get_parameter("1.1.weight").tolist() == [0.0] * 4


def test_scales_of_channels_that_cannot_be_pruned_stay_as_they_are() -> None:
    model = nn.Sequential(model_with([0.5, -0.5]), head(4), nn.BatchNorm1d(5))
    penalty = BNPenalty(1.0)
    penalty.prepare(model, (images(),), 1)
    penalty.after_step(model, 0.1, 1)
    assert model.get_parameter("0.0.1.weight").tolist() == [0.0] * 2
    assert model.get_parameter("2.weight").tolist() == [1.0] * 5
    assert "2" not in penalty.record(model, 1)["collapsed"]


def test_a_network_that_cannot_be_traced_is_pulled_at_everywhere() -> None:
    model = model_with([0.5, -0.5])
    penalty = BNPenalty(1.0)
    penalty.prepare(model, (torch.zeros(1, 7, 8, 8),), 1)
    penalty.after_step(model, 0.1, 1)
    assert model.get_parameter("1.1.weight").tolist() == [0.0] * 4


def test_a_network_whose_scales_are_all_of_its_output_is_refused() -> None:
    with pytest.raises(StageError, match="no batch norm") as caught:
        BNPenalty(1.0).prepare(block(3, 4), (images(),), 1)
    assert caught.value.code == "MC407"
    assert "`1` cannot be pruned" in caught.value.why


def test_the_record_tells_quantiles_small_shares_and_collapsed_layers() -> None:
    record = BNPenalty(0.1).record(model_with([0.0, 0.001, -0.001, 0.0]), 1)
    assert record["gamma_small"] == 50.0
    assert record["collapsed"] == ["0.1"]
    assert record["gamma_quantiles"][-1] == 1.0
    assert record["gamma_histogram"] == {"upper": 1.0, "counts": [4, *[0] * 30, 4]}


def test_a_network_without_scales_is_refused_before_its_first_step() -> None:
    with pytest.raises(StageError, match="no batch norm") as caught:
        BNPenalty(1e-3).prepare(nn.Sequential(nn.Conv2d(3, 4, 3)), (), 1)
    assert caught.value.code == "MC407"


@pytest.mark.parametrize("strength", [0.0, -1.0, float("nan"), float("inf")])
def test_a_senseless_strength_is_refused(strength: float) -> None:
    with pytest.raises(UsageError, match="strength"):
        BNPenalty(strength)
