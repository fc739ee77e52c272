from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mcomp.quantization import calibrate, equalize, quantize
from mcomp.quantization.modules import relative_error
from tests.unit.quantization.quantization_nets import Residual, batch, warm


class Calls(nn.Module):
    """Functions in place of modules, and a flattened map that a linear layer reads."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.norm = nn.Conv2d(3, 6, 3, bias=False), nn.BatchNorm2d(6)
        self.second, self.head = nn.Conv2d(6, 4, 3, groups=2), nn.Linear(4 * 9, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = F.max_pool2d(F.relu(self.norm(self.first(x))), 2)
        return self.head(F.relu(self.second(x)).flatten(1))


def depthwise() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 8, 1), nn.BatchNorm2d(8), nn.ReLU(),
        nn.Conv2d(8, 8, 3, padding=1, groups=8, bias=False), nn.BatchNorm2d(8), nn.ReLU(),
        nn.Conv2d(8, 6, 1), nn.LeakyReLU(0.1), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 5),
    )  # fmt: skip


def plain() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(512, 16), nn.ReLU(),
        nn.Dropout(0.5), nn.Linear(16, 5),
    )  # fmt: skip


def volumes() -> nn.Module:
    return nn.Sequential(nn.Conv3d(2, 4, 3), nn.BatchNorm3d(4), nn.ReLU(), nn.AvgPool3d(2), nn.Conv3d(4, 3, 1))


def badly_scaled(model: nn.Module) -> nn.Module:
    """Output channels from a hundredth to a hundredfold, of all layers but the last, which has no next one."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        layers = [each for each in model.modules() if isinstance(each, (nn.modules.conv._ConvNd, nn.Linear))]
        for module in layers[:-1]:
            spread = 10 ** (4 * torch.rand(module.weight.shape[0], generator=generator) - 2)
            module.weight.mul_(spread.view(-1, *[1] * (module.weight.dim() - 1)))
    return model


NETS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...], int]] = {
    "plain": (plain, (3, 12, 12), 3),
    "calls": (Calls, (3, 12, 12), 2),
    "depthwise": (depthwise, (3, 12, 12), 3),
    "volumes": (volumes, (2, 8, 8, 8), 1),
    "residual": (Residual, (3, 12, 12), 0),
}


def made(name: str) -> tuple[nn.Module, Tensor, int]:
    build, shape, pairs = NETS[name]
    torch.manual_seed(0)
    model, x = badly_scaled(build()), torch.randn(16, *shape)
    model.train()(x)  # statistics of its own
    return model.eval(), x, pairs


@pytest.mark.parametrize("absorbing", [False, True])
@pytest.mark.parametrize("name", NETS)
def test_an_equalised_model_computes_the_same(name: str, absorbing: bool) -> None:
    model, x, _ = made(name)
    before = copy.deepcopy(model.state_dict())
    equal = equalize(model, (x,), [x] if absorbing else None)
    with torch.no_grad():
        assert relative_error(equal.model(x), model(x)) < 2e-5
    assert type(equal.model) is type(model)
    assert list(equal.model.state_dict()) == list(before)
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


@pytest.mark.parametrize("name", [name for name in NETS if NETS[name][2]])
def test_rows_and_columns_of_a_pair_come_to_one_range(name: str) -> None:
    model, x, count = made(name)
    equal = equalize(model, (x,))
    assert len(equal.pairs) == count
    if equal.rows:
        return
    for first, second in equal.pairs:
        rows = equal.model.get_submodule(first).weight.abs().flatten(1).amax(1)
        weight: Any = equal.model.get_submodule(second).weight
        columns = weight.transpose(0, 1).reshape(len(rows), -1).abs().amax(1)
        assert torch.allclose(rows, columns, rtol=0.05)


@pytest.mark.parametrize("name", ["depthwise", "calls"])
def test_filters_before_a_batch_norm_come_to_one_range(name: str) -> None:
    model, x, _ = made(name)
    equal = equalize(model, (x,))
    assert equal.rows
    for layer in equal.rows:
        peaks = equal.model.get_submodule(layer).weight.abs().flatten(1).amax(1)
        assert torch.allclose(peaks, peaks.max().expand_as(peaks), rtol=1e-4) or peaks.max() / peaks.min() < 20


@pytest.mark.parametrize("name", ["plain", "calls", "depthwise"])
def test_one_scale_per_tensor_costs_less_on_an_equalised_model(name: str) -> None:
    model, x, _ = made(name)
    with torch.no_grad():
        expected = model(x)

    def error(net: nn.Module) -> float:
        quantised = quantize(net, (x,), scheme="iao", per_channel=False, w_bits=8, a_bits=32)
        calibrate(quantised, [x])
        with torch.no_grad():
            return float((quantised(x) - expected).square().mean())

    assert error(equalize(model, (x,)).model) < 0.3 * error(model)


def test_biases_far_above_zero_are_absorbed_where_no_padding_stands_between() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.ReLU(), nn.Conv2d(4, 4, 3), nn.ReLU(), nn.Conv2d(4, 2, 3, padding=1))
    with torch.no_grad():
        for layer in (model[0], model[2]):
            layer.bias.fill_(50.0)  # type: ignore[union-attr]
    x = batch(8)
    equal = equalize(model, (x,), [x])
    assert equal.absorbed == {"0": 4}  # behind the second one zeros are padded
    with torch.no_grad():
        assert relative_error(equal.model(x), model(x)) < 1e-5
        assert float(F.relu(equal.model[0](x)).amax()) < 0.5 * float(F.relu(model[0](x)).amax())  # type: ignore[index]


def test_a_dead_channel_stays_dead_and_finite() -> None:
    model, x, _ = made("plain")
    with torch.no_grad():
        model[0].weight[0].zero_()  # type: ignore[index]
        model[2].weight[:, 1].zero_()  # type: ignore[index]
    equal = equalize(model, (x,)).model
    assert all(bool(torch.isfinite(value).all()) for value in equal.state_dict().values())
    with torch.no_grad():
        assert relative_error(equal(x), model(x)) < 2e-5


def test_relu6_and_shared_layers_stop_a_pair() -> None:
    shared = nn.Conv2d(8, 8, 3, padding=1)
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU6(), nn.Conv2d(8, 8, 3), nn.ReLU(), shared, nn.ReLU(), shared)
    assert equalize(warm(model), (batch(),)).pairs == []
