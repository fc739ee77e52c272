"""A folded batch norm normalises by the float convolution's statistics while it trains, as both papers draw it."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F

from mcomp.errors import StageError
from mcomp.quantization import quantize
from mcomp.quantization.batch_statistics import batch_statistics
from tests.unit.quantization.quantization_nets import batch
from tests.unit.quantization.test_batch_norm_folding import Pair, converted, grid_by_hand, quantised_by_hand

#: Everything but ``correction`` with a scale per channel, where folding changes nothing.
FLOAT_STATISTICS = [("batch", True), ("batch", False), ("correction", False)]
every = pytest.mark.parametrize(("fold", "per_channel"), FLOAT_STATISTICS)
GAMMAS = [0.0, 1e-3, 1e-2, 1.0, -0.7]


def through(value: Tensor, quantised: Tensor, passes: Tensor) -> Tensor:
    """``quantised`` with the gradient of ``value`` where it passes."""
    kept = value * passes
    return quantised.detach() + kept - kept.detach()


def by_the_papers(pair: Any, x: Tensor, fold: str, per_channel: bool, k: int, symmetric: bool) -> Tensor:
    conv, norm = pair.conv, pair.norm
    unfolded = F.conv2d(x, conv.weight, conv.bias, padding=1)
    mean, variance = unfolded.mean((0, 2, 3)), unfolded.var((0, 2, 3), correction=0)
    of_batch = norm.weight / (variance + norm.eps).sqrt()
    running = norm.weight / (norm.running_var + norm.eps).sqrt()
    grid = grid_by_hand((conv.weight * running.view(-1, 1, 1, 1)).detach(), k, per_channel, symmetric)
    folded = conv.weight * (of_batch if fold == "batch" else running).view(-1, 1, 1, 1)
    ratio = folded.detach() / grid[0] + grid[1]
    passes = (ratio >= grid[2]) & (ratio <= grid[3]) if fold == "batch" else torch.ones_like(ratio)
    product = F.conv2d(x, through(folded, quantised_by_hand(folded.detach(), grid), passes), padding=1)
    if fold == "correction":
        product = product * ((norm.running_var + norm.eps) / (variance + norm.eps)).sqrt().view(1, -1, 1, 1)
    return product + (norm.bias + (conv.bias - mean) * of_batch).view(1, -1, 1, 1)


@given(
    st.sampled_from(FLOAT_STATISTICS),
    st.lists(st.sampled_from(GAMMAS), min_size=1, max_size=5).filter(any),
    st.sampled_from([3, 4, 8]),
    st.booleans(),
    st.integers(0, 99),
)
@settings(max_examples=40)
def test_training_and_its_gradients_are_those_of_the_papers_formula(
    folding: tuple[str, bool], gamma: list[float], k: int, symmetric: bool, seed: int
) -> None:
    fold, per_channel = folding
    made = converted(gamma, fold, seed, w_bits=k, per_channel=per_channel, symmetric_weights=symmetric)
    own = Pair(gamma, seed)
    x, other = batch(4, seed=seed).requires_grad_(), batch(4, seed=seed).requires_grad_()
    expected = by_the_papers(own, other, fold, per_channel, k, symmetric)
    found = made.train()(x)
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=2e-4)
    upstream = torch.randn_like(found)
    found.backward(upstream)
    expected.backward(upstream)
    named = dict(own.named_parameters())
    for name, parameter in made.named_parameters():
        scale = float(named[name].grad.abs().max())
        torch.testing.assert_close(parameter.grad, named[name].grad, rtol=1e-3, atol=max(1e-4 * scale, 3e-3))
    torch.testing.assert_close(x.grad, other.grad, rtol=1e-3, atol=2e-3)


@every
def test_every_channel_of_small_gamma_gets_the_papers_gradient(fold: str, per_channel: bool) -> None:
    made = converted(GAMMAS[:4], fold, w_bits=4, per_channel=per_channel)
    own = Pair(GAMMAS[:4])
    x = batch(8)
    upstream = torch.randn(8, 4, 12, 12)
    made.train()(x).backward(upstream)
    by_the_papers(own, x, fold, per_channel, 4, True).backward(upstream)
    torch.testing.assert_close(made.norm.weight.grad, own.norm.weight.grad, rtol=1e-3, atol=1e-3)
    for mine, theirs in zip(made.conv.weight.grad, own.conv.weight.grad, strict=True):
        assert float((mine - theirs).norm()) <= 1e-3 * float(theirs.norm()) + 1e-6
    assert made.norm.weight.grad[0] != 0


@every
def test_a_transposed_convolution_is_normalised_by_its_float_statistics_too(fold: str, per_channel: bool) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.ConvTranspose2d(3, 4, 3), nn.BatchNorm2d(4)).eval()
    model[1].running_var.fill_(0.02)  # so small that the range of the running fold clips nothing
    made = quantize(model, (batch(2),), scheme="iao", a_bits=32, w_bits=16, fold_bn=fold, per_channel=per_channel)
    upstream = torch.randn(8, 4, 14, 14)
    found, expected = made.train()(batch(8)), model.train()(batch(8))
    torch.testing.assert_close(found, expected, rtol=1e-2, atol=1e-2)
    found.backward(upstream)
    expected.backward(upstream)
    for mine, theirs in zip(made.parameters(), model.parameters(), strict=True):
        torch.testing.assert_close(mine.grad, theirs.grad, rtol=1e-2, atol=1e-2 * float(theirs.grad.abs().max()) + 1e-3)


@every
def test_the_running_variance_stays_that_of_the_data_while_nothing_is_learnt(fold: str, per_channel: bool) -> None:
    made = converted(GAMMAS[:4], fold, w_bits=4, per_channel=per_channel).train()
    rolling = Pair(GAMMAS[:4]).norm
    with torch.no_grad():
        for seed in range(60):
            made(batch(16, seed=seed))
            rolling(F.conv2d(batch(16, seed=seed), made.conv.weight, made.conv.bias, padding=1))
    torch.testing.assert_close(made.norm.running_var, rolling.running_var, rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(made.norm.running_mean, rolling.running_mean, rtol=1e-4, atol=1e-5)


def test_a_channel_too_small_for_its_own_scale_keeps_its_variance_in_training() -> None:
    made = converted([1.0, 3e-7], "correction", per_channel=True).train()
    before = made.norm.running_var[1].clone()
    made(batch(32))
    unfolded = F.conv2d(batch(32), made.conv.weight, made.conv.bias, padding=1)[:, 1]
    torch.testing.assert_close(made.norm.running_var[1], 0.9 * before + 0.1 * unfolded.var(), rtol=1e-3, atol=1e-6)


@every
def test_a_batch_leaves_nothing_behind_in_the_weight_of_eval_mode(fold: str, per_channel: bool) -> None:
    made = converted([0.8, -1.1], fold, w_bits=4, per_channel=per_channel).train()
    made(batch(8) * 3)
    while_training = made.conv.integer_weight()
    made.eval()
    fresh = converted([0.8, -1.1], fold, w_bits=4, per_channel=per_channel).eval()
    fresh.load_state_dict(made.state_dict())
    assert torch.equal(made.conv.quantized_weight(), fresh.conv.quantized_weight())
    assert torch.equal(while_training.dequantize(), fresh.conv.integer_weight().dequantize())


@every
def test_a_batch_norm_that_another_took_the_place_of_is_noticed(fold: str, per_channel: bool) -> None:
    made = converted([0.8, -1.1], fold, per_channel=per_channel, freeze_bn_after=5)
    assert_noticed(made)


def test_so_it_is_where_only_freezing_needs_it() -> None:
    assert_noticed(converted([0.8, -1.1], "correction", per_channel=True, freeze_bn_after=5))


def assert_noticed(made: Any) -> None:
    replaced = nn.BatchNorm2d(2)
    replaced.load_state_dict(made.norm.state_dict())
    made.norm = replaced
    made.train()(batch())
    with pytest.raises(StageError, match="no longer runs behind it"):
        made(batch())
    made.eval()(batch())


def test_statistics_and_their_gradient_are_those_of_the_definition() -> None:
    x = (torch.randn(5, 3, 4, 6, dtype=torch.float32) * 2 + 1).requires_grad_()
    other = x.detach().double().requires_grad_()
    up = torch.randn(3), torch.randn(3)
    mean, variance = batch_statistics(x)
    torch.autograd.backward((mean, variance), up)
    expected = other.mean((0, 2, 3)), other.var((0, 2, 3), correction=0)
    torch.autograd.backward(expected, (up[0].double(), up[1].double()))
    torch.testing.assert_close((mean, variance), tuple(each.float() for each in expected), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(x.grad, other.grad.float(), rtol=1e-5, atol=1e-7)
