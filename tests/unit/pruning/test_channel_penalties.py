"""Penalties on whole channels: group lasso and growing regularisation."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from mcomp.errors import StageError, UsageError
from mcomp.pruning import GroupLasso, GrowingPenalty, trace
from tests.unit.pruning.pruning_nets import Blur, Chain, Net, block, chains, head, images, seeded


def plain() -> nn.Sequential:
    """Two convolutions without batch norms."""
    layers = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 6, 3), nn.ReLU(), head(6))
    return seeded(layers)  # type: ignore[return-value]


def residual() -> nn.Module:
    def forward(net: Any, x: Tensor) -> Tensor:
        stem = net.stem(x)
        out: Tensor = net.head(stem + net.branch(stem))
        return out

    return seeded(Net(forward, stem=block(3, 8), branch=block(8, 8), head=head(8)))


def prepared(penalty: Any, model: nn.Module, steps: int = 10) -> Any:
    penalty.prepare(model, (images(),), steps)
    return penalty


def filter_norms(model: nn.Module, layer: str) -> Tensor:
    return model.get_parameter(f"{layer}.weight").detach().flatten(1).norm(dim=1)


@given(st.floats(1e-4, 2.0), st.floats(1e-4, 0.2))
@settings(max_examples=25, deadline=None)
def test_group_lasso_takes_the_same_length_from_every_filter_and_stops_at_zero(strength: float, lr: float) -> None:
    model = plain()
    before = filter_norms(model, "0")
    direction = model.get_parameter("0.weight").detach() / before[:, None, None, None]
    prepared(GroupLasso(strength), model).after_step(model, lr, 1)
    expected = (before - 10 * lr * strength).clamp(min=0)
    torch.testing.assert_close(filter_norms(model, "0"), expected, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(model.get_parameter("0.weight").detach(), direction * expected[:, None, None, None])


def test_group_lasso_drives_whole_groups_to_zero_while_others_stay() -> None:
    model = plain()
    with torch.no_grad():
        model.get_parameter("0.weight")[:3] *= 0.01
    penalty = prepared(GroupLasso(0.1), model)
    for step in range(1, 6):
        penalty.after_step(model, 0.1, step)
    assert filter_norms(model, "0")[:3].tolist() == [0.0] * 3
    assert bool((model.get_parameter("0.weight")[3:] != 0).all())
    assert penalty.record(model, 5)["norm_small"] == pytest.approx(100 * 3 / 14)


def test_layers_that_a_residual_couples_lose_a_channel_together_and_its_scales() -> None:
    model = residual()
    with torch.no_grad():
        for name in ("stem.0", "stem.1", "branch.0", "branch.1"):
            model.get_parameter(f"{name}.weight")[5] *= 1e-3
    prepared(GroupLasso(0.1), model).after_step(model, 0.1, 1)
    for name in ("stem.0", "stem.1", "branch.0", "branch.1"):
        rows = model.get_parameter(f"{name}.weight").detach().reshape(8, -1).abs().amax(1)
        assert (rows == 0).nonzero().flatten().tolist() == [5]


@settings(max_examples=10, deadline=None)
@given(chains(), st.sampled_from(["lasso", "growing"]))
def test_no_weight_but_those_that_make_prunable_channels_is_touched(model: Chain, kind: str) -> None:
    groups = trace(model, (images(),))
    if not groups.prunable:
        return
    made = {axis.parameter for group in groups.prunable for axis in group.coupled if axis.role != "columns"}
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    penalty = prepared(GroupLasso(0.1) if kind == "lasso" else GrowingPenalty(1.0), model, 1)
    penalty.after_step(model, 0.1, 1)
    changed = {name for name, old in before.items() if not torch.equal(old, model.get_parameter(name))}
    assert changed <= made
    assert changed


@pytest.mark.parametrize("make", [lambda: GroupLasso(0.1), lambda: GrowingPenalty(1.0)], ids=["lasso", "growing"])
def test_what_takes_no_gradient_stays_as_it_is(make: Any) -> None:
    model = seeded(nn.Sequential(block(3, 8), Blur(8), block(8, 6), head(6)))
    frozen = model.get_parameter("0.1.weight").requires_grad_(False)
    scale, kernel = frozen.clone(), model.get_buffer("1.kernel").clone()
    before = filter_norms(model, "0.0")
    prepared(make(), model, 1).after_step(model, 0.1, 1)
    assert torch.equal(frozen, scale)
    assert torch.equal(model.get_buffer("1.kernel"), kernel)
    assert bool((filter_norms(model, "0.0") < before).any())


def test_the_growing_penalty_grows_in_equal_rises_to_its_strength() -> None:
    penalty = prepared(GrowingPenalty(0.8, rises=4), plain(), steps=20)
    found = [penalty.strength_at(step) for step in range(1, 21)]
    assert found == pytest.approx([0.2] * 5 + [0.4] * 5 + [0.6] * 5 + [0.8] * 5)


@given(st.integers(1, 300), st.integers(1, 40))
def test_the_growing_penalty_never_falls_and_ends_at_its_strength(steps: int, rises: int) -> None:
    penalty = GrowingPenalty(0.5, rises=rises)
    penalty._steps = steps
    found = [penalty.strength_at(step) for step in range(1, steps + 1)]
    assert found == sorted(found)
    assert found[0] > 0
    assert found[-1] == 0.5


def test_the_growing_penalty_shrinks_the_least_channels_alone_and_more_with_every_rise() -> None:
    model = plain()
    with torch.no_grad():
        model.get_parameter("0.weight")[[1, 4, 6]] *= 0.5
    penalty = prepared(GrowingPenalty(1.0, ratio=0.4, rises=10), model, steps=10)
    factors = []
    for step in range(1, 11):
        before = filter_norms(model, "0")
        penalty.after_step(model, 0.1, step)
        after = filter_norms(model, "0")
        assert (before != after).nonzero().flatten().tolist() == [1, 4, 6]
        factors.append(float((after / before)[1]))
    assert factors == sorted(factors, reverse=True)
    assert factors[-1] == pytest.approx(1 / (1 + 10 * 0.1 * 1.0), rel=1e-4)
    assert penalty.record(model, 10)["penalty"] == 1.0


def test_the_growing_penalty_leaves_a_channel_of_every_group_alone() -> None:
    model = plain()
    penalty = prepared(GrowingPenalty(1e6, ratio=0.999), model, steps=1)
    penalty.after_step(model, 1.0, 1)
    for layer in ("0", "2"):
        assert int((filter_norms(model, layer) > 1e-3).sum()) == 1


def test_a_network_without_prunable_channels_is_refused() -> None:
    with pytest.raises(StageError) as caught:
        prepared(GroupLasso(1e-3), nn.Conv2d(3, 4, 3))
    assert caught.value.code == "MC407"
    assert "output of the network" in caught.value.why


@pytest.mark.parametrize(
    "make",
    [
        lambda: GroupLasso(0),
        lambda: GrowingPenalty(-1),
        lambda: GrowingPenalty(1, ratio=1.0),
        lambda: GrowingPenalty(1, rises=0),
    ],
)
def test_a_senseless_argument_is_refused(make: Any) -> None:
    with pytest.raises(UsageError) as caught:
        make()
    assert caught.value.code == "MC417"
