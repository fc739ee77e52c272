"""Batch norms folded while they train: the formulas of Jacob et al., section 3.2, written out beside the code."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F

from mcomp import surgery
from mcomp.deploy import to_onnx
from mcomp.deploy.onnx_session import OnnxSession
from mcomp.errors import StageError, UsageError
from mcomp.quantization import QuantConv2d, fold_batch_norms, quantize, restore_float
from mcomp.quantization.quantizers import BatchNormFoldedWeight
from mcomp.quantization.summary import describe
from tests.unit.quantization.quantization_nets import Residual, batch, chain, warm

BOTH = pytest.mark.parametrize("fold", ["batch", "correction"])
SMALLEST = 2.0**-23


class Pair(nn.Module):
    """A convolution and its batch norm; ``gamma`` may hold anything."""

    def __init__(self, gamma: list[float], seed: int = 0) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.conv = nn.Conv2d(3, len(gamma), 3, padding=1)
        self.norm = nn.BatchNorm2d(len(gamma))
        with torch.no_grad():
            self.norm.weight.copy_(torch.tensor(gamma))
            self.norm.bias.normal_()
            self.norm.running_mean.normal_()
            self.norm.running_var.uniform_(0.2, 3.0)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(self.conv(x))


def converted(gamma: list[float], fold: str, seed: int = 0, **options: Any) -> Any:
    made = quantize(Pair(gamma, seed).eval(), (batch(2),), scheme="iao", a_bits=32, fold_bn=fold, **options)
    assert isinstance(made.conv.weight_quantizer, BatchNormFoldedWeight)
    return made


def grid_by_hand(folded: Tensor, k: int, per_channel: bool, symmetric: bool) -> tuple[Tensor, Tensor, int, int]:
    """Scale and zero point of a folded weight, ``[outputs, 1, 1, 1]``, and the ends of the grid."""
    flat = folded.flatten(1) if per_channel else folded.reshape(1, -1)
    low, high = flat.amin(1), flat.amax(1)
    if symmetric:
        top = 2 ** (k - 1) - 1
        scale = (torch.maximum(-low, high) / top).clamp(min=SMALLEST)
        zero, ends = torch.zeros_like(scale), (-top, top)
    else:
        ends = (-(2 ** (k - 1)), 2 ** (k - 1) - 1)
        low, high = low.clamp(max=0), high.clamp(min=0)
        scale = ((high - low) / (2**k - 1)).clamp(min=SMALLEST)
        zero = (ends[0] - low / scale).round().clamp(*ends)
    return scale.view(-1, 1, 1, 1), zero.view(-1, 1, 1, 1), *ends


def quantised_by_hand(folded: Tensor, grid: tuple[Tensor, Tensor, int, int]) -> Tensor:
    scale, zero, low, high = grid
    return ((torch.round(folded / scale) + zero).clamp(low, high) - zero) * scale


gammas = st.lists(st.sampled_from([-1.7, -0.4, 0.3, 0.9, 2.5]), min_size=1, max_size=5)


@given(gammas, st.sampled_from([3, 4, 8]), st.booleans(), st.integers(0, 99))
@settings(max_examples=25)
def test_with_a_scale_per_channel_correction_normalises_the_one_convolution_it_needs(
    gamma: list[float], k: int, symmetric: bool, seed: int
) -> None:
    made = converted(gamma, "correction", seed, w_bits=k, per_channel=True, symmetric_weights=symmetric)
    conv, norm, x = made.conv, made.norm, batch(4, seed=seed)
    mean, variance = norm.running_mean.clone(), norm.running_var.clone()
    with torch.no_grad():
        root = (variance + norm.eps).sqrt()
        folded = conv.weight * (norm.weight / root).view(-1, 1, 1, 1)
        output = F.conv2d(x, quantised_by_hand(folded, grid_by_hand(folded, k, True, symmetric)), padding=1)
        unfolded = output * (root / norm.weight).view(1, -1, 1, 1) + conv.bias.view(1, -1, 1, 1)
        of_batch = unfolded.mean((0, 2, 3)), unfolded.var((0, 2, 3), correction=0)
        rescaled = output * (root / (of_batch[1] + norm.eps).sqrt()).view(1, -1, 1, 1)
        bias = norm.bias + (conv.bias - of_batch[0]) * norm.weight / (of_batch[1] + norm.eps).sqrt()
        expected = rescaled + bias.view(1, -1, 1, 1)
    found = made.train()(x)
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=2e-4)
    count = unfolded.numel() / len(gamma)
    unbiased = of_batch[1] * count / (count - 1)
    torch.testing.assert_close(norm.running_var, 0.9 * variance + 0.1 * unbiased, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(norm.running_mean, 0.9 * mean + 0.1 * of_batch[0], rtol=1e-4, atol=1e-5)


@given(gammas, st.integers(0, 99))
@settings(max_examples=20)
def test_its_gradient_passes_straight_through_the_rounding(gamma: list[float], seed: int) -> None:
    made = converted(gamma, "correction", seed).train()
    x = batch(4, seed=seed).requires_grad_()
    weight = made.conv.weight.detach().clone().requires_grad_()
    quantised = made.conv.quantized_weight().detach()
    rolling = copy.deepcopy(made.norm)
    other = x.detach().clone().requires_grad_()
    expected = rolling(F.conv2d(other, weight + (quantised - weight).detach(), made.conv.bias, padding=1))
    found = made(x)
    upstream = torch.randn_like(found)
    found.backward(upstream)
    expected.backward(upstream)
    for mine, theirs in ((made.conv.weight, weight), (x, other), (made.norm.weight, rolling.weight)):
        torch.testing.assert_close(mine.grad, theirs.grad, rtol=1e-3, atol=2e-3)


@BOTH
@pytest.mark.parametrize("per_channel", [True, False])
@pytest.mark.parametrize("symmetric", [True, False])
def test_eval_mode_is_the_folded_layer_and_folding_gives_its_integers(
    fold: str, per_channel: bool, symmetric: bool
) -> None:
    made = converted([0.8, -1.1, 0.02], fold, w_bits=5, per_channel=per_channel, symmetric_weights=symmetric)
    made.train()(batch(8))
    made.eval()
    norm, x = made.norm, batch(3, seed=4)
    with torch.no_grad():
        factor = norm.weight / (norm.running_var + norm.eps).sqrt()
        folded = made.conv.weight * factor.view(-1, 1, 1, 1)
        grid = grid_by_hand(folded, 5, per_channel, symmetric)
        bias = norm.bias + (made.conv.bias - norm.running_mean) * factor
        expected = F.conv2d(x, quantised_by_hand(folded, grid), bias, padding=1)
        torch.testing.assert_close(made(x), expected, rtol=1e-4, atol=1e-5)
    result = fold_batch_norms(made, (batch(2),))
    assert (result.count, result.left) == (1, {})
    assert result.error < 1e-6
    integers = result.model.get_submodule("conv").integer_weight()
    by_hand = (torch.round(folded / grid[0]) + grid[1]).clamp(*grid[2:]) - grid[1]
    assert torch.equal(integers.values.float(), by_hand.detach())
    torch.testing.assert_close(integers.scale, grid[0].flatten().expand(3), rtol=1e-6, atol=0)


@BOTH
@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("overflow", ["forbid", "saturate"])
def test_the_fixed_point_of_a_folded_weight_is_that_of_the_merged_layer(fold: str, bits: int, overflow: str) -> None:
    model = Pair([0.8, -1.1, 0.02, 0.0]).eval()
    made: Any = quantize(
        model, (batch(2),), scheme="ristretto", w_bits=bits, a_bits=32, overflow=overflow, fold_bn=fold
    )
    made.train()(batch(8)).square().mean().backward()
    made.eval()
    merged = fold_batch_norms(restore_float(made), (batch(2),)).model  # batch norms go first, the point is set after
    by_hand = quantize(merged, (batch(2),), scheme="ristretto", w_bits=bits, a_bits=32, overflow=overflow)
    result = fold_batch_norms(made, (batch(2),))
    assert result.error < 1e-6
    found = result.model.get_submodule("conv").integer_weight()
    expected = by_hand.get_submodule("conv").integer_weight()
    assert torch.equal(found.values[:3].float(), expected.values[:3].float())
    assert torch.equal(found.scale[:3], expected.scale.expand(3))
    assert float(torch.frexp(found.scale).mantissa.sub(0.5).abs().max()) == 0
    assert not found.values[3].any()


@BOTH
def test_a_gamma_of_zero_is_safe_everywhere_and_may_come_back(fold: str) -> None:
    made = converted([0.0, 1.0, 1e-30, -1e-9], fold, per_channel=False).train()
    made(batch(8)).square().sum().backward()
    for parameter in made.parameters():
        assert torch.isfinite(parameter.grad).all()
    assert made.norm.weight.grad[0] != 0  # its statistics are those of a living channel
    assert (made.norm.running_var[[0, 2, 3]] > 0.1).all()
    made.eval()
    assert torch.equal(made(batch())[:, 0], made.norm.bias[0].expand(4, 12, 12))
    result = fold_batch_norms(made, (batch(2),))
    assert result.error < 1e-6
    layer = result.model.get_submodule("conv")
    assert not layer.weight_int[[0, 2, 3]].any()
    assert layer.weight_scale[0] == 1


@BOTH
def test_statistics_stand_still_after_the_step_that_was_asked_for(fold: str) -> None:
    made = converted([0.7, 1.3], fold, freeze_bn_after=2)
    seen = []
    for step in range(4):
        made.train()(batch(8, seed=step))
        seen.append(made.norm.running_var.clone())
    assert not torch.equal(seen[0], seen[1])
    assert torch.equal(seen[1], seen[2])
    assert torch.equal(seen[2], seen[3])
    made.eval()
    assert torch.equal(seen[3], made.norm.running_var)


@BOTH
def test_training_resumes_bit_for_bit(fold: str) -> None:
    def steps(model: nn.Module, numbers: range) -> nn.Module:
        optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
        for number in numbers:
            optimizer.zero_grad()
            model.train()(batch(8, seed=number)).square().mean().backward()
            optimizer.step()
        return model

    model = warm(Residual())

    def fresh() -> nn.Module:
        return quantize(model, (batch(),), scheme="iao", fold_bn=fold, freeze_bn_after=3)

    through = steps(fresh(), range(5))
    half = steps(fresh(), range(2))
    resumed = fresh()
    resumed.load_state_dict(half.state_dict())
    steps(resumed, range(2, 5))
    copied = steps(copy.deepcopy(half), range(2, 5))
    for other in (resumed, copied):
        expected, found = through.state_dict(), other.state_dict()
        assert expected.keys() == found.keys()
        assert all(torch.equal(expected[name], found[name]) for name in expected)


def test_eval_keeps_the_weight_until_the_batch_norm_changes() -> None:
    made = converted([0.7, 1.3], "correction").eval()
    with torch.no_grad():
        first = made.conv.quantized_weight()
        assert made.conv.quantized_weight() is first
        made.norm.running_var.mul_(1.7)
        made.norm.weight[0] *= -3
        assert made.conv.quantized_weight() is not first


@BOTH
def test_it_trains_lowers_and_comes_back_from_disk(fold: str, tmp_path: Path) -> None:
    def build() -> nn.Module:
        return Residual()

    made = quantize(warm(build()), (batch(),), scheme="iao", fold_bn=fold, per_channel=False, calibration=[batch(16)])
    made.train()(batch(8)).square().mean().backward()
    x = batch(seed=6)
    expected = made.eval()(x).detach()
    for number, model in enumerate((made, fold_batch_norms(made, (batch(),)).model)):
        lowering = to_onnx(model, (batch(2),), tmp_path / f"{number}.onnx")
        assert lowering.exact, lowering.notes
        found = torch.as_tensor(np.asarray(OnnxSession(lowering.path).predict(x)))
        assert float((found - expected).norm() / expected.norm()) < 0.03
        fresh = build()
        for entry in copy.deepcopy(surgery.provenance(model).log):
            fresh = surgery.replay(fresh, entry, (batch(),))
        fresh.load_state_dict(model.state_dict(), strict=True)
        assert torch.equal(fresh.eval()(x), model.eval()(x))


def test_the_float_network_comes_back_with_its_batch_norms() -> None:
    model = warm(Residual())
    made = quantize(model, (batch(),), scheme="iao", fold_bn="correction", calibration=[batch()])
    again = restore_float(made)
    assert torch.equal(again.eval()(batch()), model(batch()))


def test_only_layers_that_ask_and_have_a_batch_norm_are_folded() -> None:
    made = quantize(
        warm(chain()), (batch(),), scheme="iao", overrides={"3": {"fold_bn": "batch", "freeze_bn_after": 7}}
    )
    folding = {name for name, module in made.named_modules() if isinstance(module, BatchNormFoldedWeight)}
    assert folding == {"3.weight_quantizer"}
    assert made.get_submodule("3.weight_quantizer").freeze_after == 7
    assert [row["name"] for row in describe(made) if "batch norm" in row["why"]] == ["3"]


def test_a_fold_that_nobody_could_find_is_refused() -> None:
    with pytest.raises(StageError, match="needs a graph"):
        quantize(chain(), (batch(),), scheme="iao", fold_bn="batch", route="modules")
    with pytest.raises(UsageError, match="no batch norm to fold"):
        QuantConv2d(3, 4, 3, scheme="iao", fold_bn="batch")
    with pytest.raises(UsageError, match="whole numbers"):
        quantize(chain(), (batch(),), scheme="iao", freeze_bn_after=-1)
    with pytest.raises(UsageError, match="has no option"):
        quantize(chain(), (batch(),), scheme="lsq", fold_bn="batch")


@BOTH
def test_transposed_and_one_dimensional_convolutions_fold_too(fold: str) -> None:
    torch.manual_seed(0)
    transposed = nn.Sequential(nn.ConvTranspose2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(784, 2))
    flat = nn.Sequential(nn.Conv1d(3, 4, 3), nn.BatchNorm1d(4), nn.Flatten(), nn.Linear(40, 2))
    for model, shape in ((transposed, (3, 12, 12)), (flat, (3, 12))):
        warm(model, shape)
        made = quantize(model, (batch(2, shape),), scheme="iao", fold_bn=fold, calibration=[batch(8, shape)])
        made.train()(batch(8, shape)).square().mean().backward()
        made.eval()
        assert fold_batch_norms(made, (batch(2, shape),)).error < 1e-5


def synchronised(per_channel: bool, folding: str) -> nn.Module:
    torch.manual_seed(0)
    model = nn.SyncBatchNorm.convert_sync_batchnorm(warm(chain()))
    return quantize(model, (batch(),), scheme="iao", fold_bn=folding, per_channel=per_channel, calibration=[batch()])


@pytest.mark.parametrize(("per_channel", "folding"), [(True, "batch"), (False, "batch"), (False, "correction")])
def test_statistics_of_one_process_are_not_folded_beside_those_of_all(per_channel: bool, folding: str) -> None:
    with pytest.raises(StageError, match="SyncBatchNorm") as caught:
        synchronised(per_channel, folding)
    assert "correction" in caught.value.hint


def test_running_statistics_fold_whoever_tracked_them() -> None:
    torch.manual_seed(0)
    plain = quantize(
        warm(chain()), (batch(),), scheme="iao", fold_bn="correction", per_channel=True, calibration=[batch()]
    )
    shared = synchronised(per_channel=True, folding="correction")
    assert torch.equal(shared.eval()(batch(seed=5)), plain.eval()(batch(seed=5)))
    assert fold_batch_norms(shared, (batch(),)).error < 1e-5


def train(model: nn.Module, steps: int) -> None:
    for _ in range(steps):
        model.train()(batch(2))


def test_a_batch_norm_that_was_replaced_after_quantising_is_missed_in_training_and_when_it_is_folded() -> None:
    made = converted([0.8, -1.1], "correction", per_channel=True)
    train(made, 64)
    made.conv(batch(2))  # a pass that broke off
    train(made, 3)
    made.norm = nn.BatchNorm2d(2)
    with pytest.raises(StageError, match="no longer runs behind it"):
        train(made, 66)
    replaced = nn.SyncBatchNorm.convert_sync_batchnorm(converted([0.8, -1.1], "correction", per_channel=True))
    replaced.norm.forward = lambda x: x  # it wants a process group
    with pytest.raises(StageError, match="no longer runs behind it"):
        train(replaced, 3)
    model = quantize(
        warm(chain()), (batch(),), scheme="iao", fold_bn="correction", per_channel=True, calibration=[batch()]
    )
    replaced = nn.SyncBatchNorm.convert_sync_batchnorm(model)
    with pytest.raises(StageError, match="no longer in the model"):
        fold_batch_norms(replaced, (batch(),))
