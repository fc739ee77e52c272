from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from mcomp.quantization import calibrate, correct_bias, quantize
from tests.unit.quantization.quantization_nets import Residual, batch, chain, warm


def plain() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(512, 5)
    ).eval()


def quantised(model: nn.Module, route: Any = "auto") -> nn.Module:
    made = quantize(model, (batch(),), scheme="iao", w_bits=3, a_bits=4, per_channel=False, route=route)
    calibrate(made, [batch(16)])
    return made


def means(model: nn.Module, names: list[str], x: Tensor) -> dict[str, Tensor]:
    found: dict[str, Tensor] = {}
    for name in names:
        layer = model.get_submodule(name)
        layer.register_forward_hook(
            lambda _m, _a, y, name=name: found.__setitem__(
                name, y.movedim(1, 0).flatten(1).mean(1) if y.dim() > 2 else y.mean(0)
            )
        )
    with torch.no_grad():
        model(x)
    return found


@pytest.mark.parametrize("route", ["symbolic", "modules"])
def test_every_channel_has_the_mean_of_the_float_model(route: Any) -> None:
    model, x = plain(), batch(16)
    made, untouched = quantised(model, route), quantised(model, route)
    done = correct_bias(made, model, [x[:8], x[8:]])
    assert list(done.shifts) == ["0", "2", "5"]
    assert done.left == []
    wanted, found, before = (means(net, list(done.shifts), x) for net in (model, made, untouched))
    for name in done.shifts:
        largest = float(wanted[name].abs().max())
        assert float((found[name] - wanted[name]).abs().max()) < 1e-4 * largest
        assert float((before[name] - wanted[name]).abs().max()) > 1e-2 * largest


@pytest.mark.parametrize("build", [chain, Residual])
def test_a_layer_without_bias_hands_its_error_to_the_batch_norm(build: Any) -> None:
    model, x = warm(build()), batch(16)
    norms = [name for name, module in model.named_modules() if isinstance(module, nn.BatchNorm2d)]
    made = quantised(model)
    structure = list(made.state_dict())
    done = correct_bias(made, model, [x])
    assert list(made.state_dict()) == structure
    assert len(done.shifts) >= len(norms)
    wanted, found = (means(net, norms, x) for net in (model, made))
    for name in norms:
        assert float((found[name] - wanted[name]).abs().max()) < 1e-3 * float(wanted[name].abs().max() + 1)


def test_a_layer_with_no_place_for_the_error_is_named() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3, bias=False), nn.ReLU(), nn.Flatten(), nn.Linear(400, 5)).eval()
    done = correct_bias(quantised(model), model, [batch(8)])
    assert done.left == ["0"]
    assert list(done.shifts) == ["3"]
