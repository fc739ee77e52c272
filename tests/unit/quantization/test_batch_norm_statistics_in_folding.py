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
from mcomp.quantization.batch_statistics import BatchStatistics
from tests.unit.quantization.quantization_nets import batch
from tests.unit.quantization.test_batch_norm_folding import Pair, converted, grid_by_hand, quantised_by_hand

#: Everything but ``correction`` with a scale per channel, where folding changes nothing.
FLOAT_STATISTICS = [("batch", True), ("batch", False), ("correction", False)]
every = pytest.mark.parametrize(("fold", "per_channel"), FLOAT_STATISTICS)
GAMMAS = [0.0, 1e-3, 1e-2, 1.0, -0.7]


def by_the_papers(pair: Any, x: Tensor, fold: str, per_channel: bool, k: int, symmetric: bool) -> Tensor:
    """The papers' value, with the gradient of the batch norm whose rounding is passed straight through."""
    conv, norm, across = pair.conv, pair.norm, (1, -1, 1, 1)
    with torch.no_grad():
        unfolded = F.conv2d(x, conv.weight, conv.bias, padding=1)
        mean, variance = unfolded.mean((0, 2, 3)), unfolded.var((0, 2, 3), correction=0)
        of_batch = norm.weight / (variance + norm.eps).sqrt()
        running = norm.weight / (norm.running_var + norm.eps).sqrt()
        grid = grid_by_hand(conv.weight * running.view(-1, 1, 1, 1), k, per_channel, symmetric)
        factor = (of_batch if fold == "batch" else running).view(-1, 1, 1, 1)
        quantised = quantised_by_hand(conv.weight * factor, grid)
        product = F.conv2d(x, quantised, padding=1)
        if fold == "correction":
            product = product * ((norm.running_var + norm.eps) / (variance + norm.eps)).sqrt().view(across)
        value = product + (norm.bias + (conv.bias - mean) * of_batch).view(across)
        ratio = conv.weight * factor / grid[0] + grid[1]
        passes = (ratio >= grid[2]) & (ratio <= grid[3]) if fold == "batch" else torch.ones_like(ratio)
        read = torch.where(factor == 0, 0, quantised / factor)  # the weight that the quantised one stands for
    learnt = torch.where(passes.bool(), conv.weight, conv.weight.detach())
    through = F.conv2d(x, read, padding=1)
    summed = F.conv2d(x.detach(), learnt, conv.bias, padding=1) + through - through.detach()
    smooth = F.batch_norm(summed, None, None, norm.weight, norm.bias, training=True, eps=norm.eps)
    return value + smooth - smooth.detach()


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


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("offset", [0.0, 300.0])
def test_statistics_are_those_of_the_definition(layout: torch.memory_format, offset: float) -> None:
    x = (torch.randn(5, 3, 40, 600) * torch.tensor([2, 0.1, 0]).view(-1, 1, 1) + offset).to(memory_format=layout)
    found, exact = BatchStatistics.of(x), x.double()
    torch.testing.assert_close(found.mean, exact.mean((0, 2, 3)).float(), rtol=1e-5, atol=1e-4)
    torch.testing.assert_close(found.variance, exact.var((0, 2, 3), correction=0).float(), rtol=1e-3, atol=1e-7)
    half = BatchStatistics.of(x.bfloat16())
    torch.testing.assert_close(half.mean, x.bfloat16().double().mean((0, 2, 3)).float(), rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("momentum", [0.1, 1.0, None])
def test_a_batch_norm_tracks_two_samples_as_it_would_the_batch(momentum: float | None) -> None:
    x = torch.randn(4, 3, 5, 6) * 2 + 1
    one, other = (nn.BatchNorm2d(3, momentum=momentum) for _ in range(2))
    for _ in range(3):
        one(x)
        other(BatchStatistics.of(x).samples(torch.float32))
    for name, expected in one.state_dict().items():
        torch.testing.assert_close(other.state_dict()[name], expected)


def test_a_batch_of_one_value_is_refused_as_a_batch_norm_refuses_it() -> None:
    made = converted([0.8, -1.1], "batch").train()
    made.conv.padding = (0, 0)
    with pytest.raises(ValueError, match="more than 1 value"):
        made(torch.ones(1, 3, 3, 3))


def test_the_convolution_answers_with_what_its_float_weight_makes() -> None:
    """Whoever reads it, a hook that distils features, say, sees the tensor that the batch norm normalises."""
    made, seen = converted([0.8, -1.1], "batch").train(), []
    made.conv.register_forward_hook(lambda _layer, _inputs, output: seen.append(output))
    made(batch())
    torch.testing.assert_close(seen[0], F.conv2d(batch(), made.conv.weight, made.conv.bias, padding=1).detach())
