"""Scores from gradients against gates that are really put into the network."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mcomp.errors import StageError, UsageError
from mcomp.pruning import prune, trace
from mcomp.pruning.importance import channel_importance
from tests.unit.pruning.pruning_nets import Blur, block, digest, head, images, seeded

BATCHES = [(images(seed=seed, count=4), torch.arange(4) % 5) for seed in (1, 2, 3)]


def gate_gradients(model: nn.Module, layer: str, inputs: Tensor, labels: Tensor) -> Tensor:
    """``[channels]`` derivative of the loss with respect to a factor on the outputs of ``layer``."""
    twin = copy.deepcopy(model)
    module = twin.get_submodule(layer)
    gate = torch.ones(len(module.weight), requires_grad=True)
    module.register_forward_hook(lambda _m, _i, y: y * gate.reshape([-1, *[1] * (y.ndim - 2)]))
    (found,) = torch.autograd.grad(F.cross_entropy(twin(inputs), labels), gate)
    return found


@pytest.mark.parametrize(
    ("model", "layer", "gated"),
    [
        (nn.Sequential(block(3, 8), block(8, 6), head(6)), "1.0", "1.1"),
        (nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 6, 3), nn.ReLU(), head(6)), "2", "2"),
    ],
    ids=["behind the batch norm", "behind the layer"],
)
def test_taylor_is_the_mean_square_of_the_derivative_by_a_gate(model: nn.Module, layer: str, gated: str) -> None:
    seeded(model)
    found = channel_importance(model, trace(model, (images(),)), "taylor", batches=BATCHES)[layer]
    gates = torch.stack([gate_gradients(model, gated, *batch) for batch in BATCHES])
    torch.testing.assert_close(found.float(), gates.square().mean(0), rtol=1e-3, atol=1e-9)


def test_hessian_is_half_of_the_squared_gradients_times_the_squared_weights() -> None:
    model = seeded(nn.Sequential(block(3, 8), head(8)))
    found = channel_importance(model, trace(model, (images(),)), "hessian", batches=BATCHES)["0.0"]
    twin = copy.deepcopy(model)
    weight = twin.get_submodule("0.0").weight
    fisher = torch.zeros_like(weight)
    for inputs, labels in BATCHES:
        fisher += torch.autograd.grad(F.cross_entropy(twin(inputs), labels), weight)[0] ** 2 / len(BATCHES)
    expected = (0.5 * fisher * weight.detach() ** 2).sum((1, 2, 3))
    torch.testing.assert_close(found.float(), expected, rtol=1e-4, atol=1e-12)


@pytest.mark.parametrize("kind", ["taylor", "hessian"])
def test_a_channel_that_nobody_reads_scores_zero_and_goes_first(kind: str) -> None:
    model = seeded(nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), head(8)))
    with torch.no_grad():
        model.get_submodule("2.2").weight[:, [1, 4]] = 0
    result = prune(model, (images(),), 0.2, importance=kind, batches=BATCHES)  # type: ignore[arg-type]
    assert result.kept["0"] == [0, 2, 3, 5, 6, 7]


def test_a_loss_of_ones_own_is_followed() -> None:
    model = seeded(nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), head(8)))
    groups = trace(model, (images(),))
    usual = channel_importance(model, groups, "taylor", batches=BATCHES)["0"]
    twice = channel_importance(
        model, groups, "taylor", batches=BATCHES, loss=lambda outputs, labels: 2 * F.cross_entropy(outputs, labels)
    )["0"]
    torch.testing.assert_close(twice, 4 * usual)


def test_neither_weights_nor_gradients_of_the_model_are_touched() -> None:
    model = seeded(nn.Sequential(block(3, 8), head(8)))
    model.get_submodule("0.0").weight.requires_grad_(False)
    before = digest(model)
    prune(model, (images(),), 0.5, importance="taylor", batches=BATCHES)
    assert digest(model) == before
    assert all(parameter.grad is None for parameter in model.parameters())
    assert not model.get_submodule("0.0").weight.requires_grad


def test_a_model_in_half_precision_is_scored_too() -> None:
    model = seeded(nn.Sequential(block(3, 8), head(8))).bfloat16()
    result = prune(model, (images().bfloat16(),), 0.5, importance="taylor", batches=BATCHES)
    assert len(result.kept["0.0"]) == 3


def test_no_batch_is_a_named_refusal() -> None:
    model = seeded(nn.Sequential(block(3, 8), head(8)))
    with pytest.raises(UsageError, match="there is no batch") as caught:
        prune(model, (images(),), 0.5, importance="hessian")
    assert caught.value.code == "MC456"


def test_gradients_that_are_no_numbers_are_refused() -> None:
    model = seeded(nn.Sequential(block(3, 8), head(8)))
    broken = [(BATCHES[0][0] * torch.inf, BATCHES[0][1])]
    with pytest.raises(StageError, match=r"gradients or weights of `0\.0` are NaN") as caught:
        prune(model, (images(),), 0.5, importance="taylor", batches=broken)
    assert caught.value.code == "MC415"


@pytest.mark.parametrize("kind", ["taylor", "hessian", "l1", "bn_gamma"])
def test_a_kernel_that_is_a_buffer_has_no_score_and_goes_with_its_channels(kind: str) -> None:
    model = seeded(nn.Sequential(block(3, 8), Blur(8), block(8, 6), head(6)))
    result = prune(model, (images(),), 0.5, scope="per_layer", importance=kind, batches=BATCHES)  # type: ignore[arg-type]
    assert result.kept["0.0"] == result.kept["1.kernel"]
    assert len(result.kept["0.0"]) == 3
