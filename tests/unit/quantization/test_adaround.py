from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mcomp.quantization import adaptive_rounding, calibrate, layer_report, quantize
from mcomp.quantization.layers import QuantizedLayer


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.ReLU(), nn.ConvTranspose2d(8, 4, 2, stride=2), nn.ReLU(), nn.AdaptiveAvgPool2d(4),
        nn.Flatten(), nn.Linear(64, 5),
    ).eval()  # fmt: skip


def images(count: int) -> torch.Tensor:
    """Correlated pixels, as images have: with white noise nearest rounding is best."""
    torch.manual_seed(1)
    coarse = torch.randn(count, 3, 4, 4)
    return nn.functional.interpolate(coarse, size=(10, 10), mode="bilinear") + 0.1 * torch.randn(count, 3, 10, 10)


def quantised(model: nn.Module, **options: Any) -> nn.Module:
    made = quantize(model, (images(2),), **{"a_bits": 8, **options})
    calibrate(made, [images(32)])
    return made


SCHEMES = [
    {"scheme": "iao", "w_bits": 3},
    {"scheme": "iao", "w_bits": 3, "per_channel": False, "symmetric_weights": False},
    {"scheme": "dorefa", "w_bits": 3, "first_layer_float": False},
    {"scheme": "lsq", "w_bits": 3},
]


@pytest.mark.parametrize("options", SCHEMES, ids=lambda options: "_".join(str(value) for value in options.values()))
def test_learned_rounding_is_nearer_to_the_float_layers_and_is_plain_rounding_of_the_result(
    options: dict[str, Any],
) -> None:
    model, x = network(), images(64)
    made, before = quantised(model, **options), quantised(model, **options)
    rows = adaptive_rounding(made, model, x.split(16), iterations=200)
    assert [row.layer for row in rows] == ["0", "2", "6"]
    assert all(row.learned <= row.nearest for row in rows)
    assert sum(row.moved for row in rows) > 10
    assert rows[0].learned < 0.9 * rows[0].nearest
    for row in rows:
        layer, old = made.get_submodule(row.layer), before.get_submodule(row.layer)
        assert isinstance(layer, QuantizedLayer)
        assert isinstance(old, QuantizedLayer)
        after, then = layer.integer_weight(), old.integer_weight()
        assert torch.equal(after.scale, then.scale)  # the grid has not moved
        assert int((after.values - then.values).abs().max()) <= 1  # up or down
        assert int((after.values != then.values).sum()) == row.moved


def test_the_errors_told_are_those_of_the_first_layer_on_the_sample() -> None:
    model, x = network(), images(64)
    made, before = quantised(model, **SCHEMES[0]), quantised(model, **SCHEMES[0])
    row = adaptive_rounding(made, model, [x], iterations=100)[0]

    def error(net: nn.Module) -> float:
        outputs: list[torch.Tensor] = []
        for each in (net, model):
            handle = each.get_submodule("0").register_forward_hook(lambda _m, _a, y: outputs.append(y))
            with torch.no_grad():
                each(x)
            handle.remove()
        return float((outputs[0] - outputs[1]).square().mean())

    assert row.nearest == pytest.approx(error(before), rel=1e-4)
    assert row.learned == pytest.approx(error(made), rel=1e-4)


def test_layers_whose_levels_are_not_found_by_rounding_are_left_and_named() -> None:
    model, x = network(), images(16)
    binary = quantised(model, scheme="wbwtab", a_bits=32, first_layer_float=False, last_layer_float=False)
    state = {name: value.clone() for name, value in binary.state_dict().items()}
    rows = adaptive_rounding(binary, model, [x], iterations=10)
    assert all(row.why for row in rows)
    assert all(torch.equal(value, state[name]) for name, value in binary.state_dict().items())


def test_the_same_seed_gives_the_same_weights() -> None:
    model, x = network(), images(32)
    first, second = (quantised(model, **SCHEMES[0]) for _ in range(2))
    for made in (first, second):
        adaptive_rounding(made, model, [x], iterations=50, seed=3)
    assert all(torch.equal(value, second.state_dict()[name]) for name, value in first.state_dict().items())


def test_a_weight_that_a_function_reads_is_named_as_not_rounded() -> None:
    class Functional(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(3, 8, 3)
            self.matrix = nn.Parameter(torch.randn(5, 8, generator=torch.Generator().manual_seed(3)))

        def forward(self, x: Tensor) -> Tensor:
            return F.linear(self.conv(x).relu().mean((2, 3)), self.matrix)

    model, x = Functional().eval(), images(16)
    made = quantize(model, (x,), scheme="iao", w_bits=3, calibration=[x])
    rows = {row.layer: row.why for row in adaptive_rounding(made, model, [x], iterations=5)}
    assert rows["conv"] == ""
    assert "a function" in rows["matrix"]
    assert torch.equal(made.get_parameter("matrix"), model.matrix)


def test_the_report_of_a_weight_that_was_rounded_before_says_so() -> None:
    model, x = network(), images(64)
    made = quantised(model, **SCHEMES[0])
    assert not any(row.note for row in layer_report(made, [x]).tensors)
    moved = {row.layer for row in adaptive_rounding(made, model, x.split(16), iterations=50) if row.moved}
    report = layer_report(made, [x])
    assert {row.name for row in report.tensors if "not in these figures" in row.note} == moved
    assert all(f"{name}: it was on its grid before" in str(report) for name in moved)
