"""What is told of each layer is what can be computed by hand, and telling it changes nothing."""

from __future__ import annotations

import copy
import json
import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mcomp.errors import StageError, UsageError
from mcomp.quantization import (
    QuantConv2d,
    QuantLinear,
    QuantReLU,
    calibrate,
    describe,
    fold_batch_norms,
    layer_report,
    quantize,
    sensitivity,
)
from mcomp.quantization.bypass import bypassed
from mcomp.quantization.grid_histogram import BINS, GridCounter
from mcomp.quantization.integers import QParams
from mcomp.quantization.schemes import SCHEMES
from tests.unit.quantization.conversion_nets import CASES, build

NAMES = ["shared_relu", "lstm", "encoder_pre_batch_first", "bare_parameters", "unet", "control_flow", "depthwise"]


def net() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(144, 5)).eval()


def images(count: int = 6, seed: int = 1) -> Tensor:
    return torch.randn(count, 3, 8, 8, generator=torch.Generator().manual_seed(seed))


def db(signal: Tensor, other: Tensor) -> float:
    return 10 * math.log10(float(signal.double().square().sum() / (signal - other).double().square().sum()))


def test_figures_are_those_of_the_tensors_themselves() -> None:
    model = net()
    made: Any = quantize(model, (images(),), scheme="iao", w_bits=4, a_bits=3, calibration=[images()]).eval()
    batches = [images(4, 5), images(3, 6)]
    report = layer_report(made, batches)
    rows = {row.name: row for row in report.tensors}
    assert list(rows) == ["0", "3", "activation_quantizers.input_1", "activation_quantizers._1"]
    assert report.samples == 7
    whole = torch.cat(batches)
    with torch.no_grad():
        quantised_input = made.activation_quantizers.input_1(whole)
        hidden = F.relu(F.conv2d(quantised_input, made.get_submodule("0").quantized_weight(), model[0].bias))
        after = made.activation_quantizers._1(hidden)
        float_hidden = model[0](whole)
        float_output = model(whole)
        output = made(whole)
    assert rows["activation_quantizers.input_1"].sqnr_db == pytest.approx(db(whole, quantised_input), abs=1e-3)
    row = rows["activation_quantizers._1"]
    assert row.sqnr_db == pytest.approx(db(hidden, after), abs=1e-3)
    assert (row.low, row.high) == (float(hidden.min()), float(hidden.max()))
    clip = made.activation_quantizers._1.clip
    assert row.clipped == pytest.approx(100 * float((hidden > clip).float().mean()))
    assert row.clipped > 0
    assert row.grid_high == pytest.approx(clip)
    assert (row.layers, row.kind, row.bits, row.scheme) == (["3"], "activation", 3, "iao")
    assert row.used == pytest.approx(100 * after.unique().numel() / 8)
    weight = rows["0"]
    assert weight.sqnr_db == pytest.approx(
        db(model[0].weight.detach(), made.get_submodule("0").quantized_weight().detach()), abs=1e-3
    )
    assert weight.clipped == 0
    noise = {row.name: row.sqnr_db for row in report.outputs}
    convolved = F.conv2d(quantised_input, made.get_submodule("0").quantized_weight(), model[0].bias).detach()
    assert noise["0"] == pytest.approx(db(float_hidden, convolved), abs=1e-3)
    assert noise["3"] == report.sqnr_db == pytest.approx(db(float_output, output), abs=1e-3)


def test_histograms_hold_every_value_before_and_only_levels_after() -> None:
    made = quantize(net(), (images(),), scheme="iao", w_bits=3, a_bits=2, per_channel=False, calibration=[images()])
    for row in layer_report(made, [images()]).tensors:
        histogram = row.histogram
        assert sum(histogram.before) == pytest.approx(100, abs=0.1)
        assert sum(histogram.after) == pytest.approx(100, abs=0.1)
        assert len(histogram.before) == len(histogram.after) == BINS
        assert histogram.low < row.low <= row.high < histogram.high
        width = (histogram.high - histogram.low) / BINS
        for index, share in enumerate(histogram.after):
            left = histogram.low + index * width
            assert not share or any(left - width / 50 <= level <= left + 1.02 * width for level in histogram.levels)


def test_a_grid_per_channel_is_shown_in_steps() -> None:
    scale = torch.tensor([0.5, 2.0])
    grid = QParams(scale, torch.zeros(2, dtype=torch.int32), -3, 3, axis=0)
    counter = GridCounter(grid)
    weight = torch.tensor([[1.4, -0.6, 0.0], [5.6, -2.4, 2.0]])
    counter.update(weight, (weight / scale[:, None]).round() * scale[:, None], grid)
    assert counter.levels[3:10].tolist() == [0, 0, 2, 1, 1, 0, 2]
    assert counter.used == 4
    shown = counter.histogram()
    assert shown.unit == "step"
    assert shown.levels == [-1, 0, 1, 2, 3]


def test_grids_found_at_run_time_are_counted_each_in_its_own_steps() -> None:
    counter = GridCounter(QParams(0.5, 1, 0, 7), own_grids=True)
    for scale, zero in ((0.5, 1), (2.0, 3)):
        levels = torch.arange(-zero, 8 - zero) * scale
        counter.update(levels, levels, QParams(scale, zero, 0, 7))
    assert counter.levels.tolist() == [0] * 4 + [1, 1] + [2] * 6 + [1, 1] + [0]
    shown = counter.histogram()
    assert shown.unit == "step"
    assert shown.before == shown.after


@pytest.mark.parametrize("name", NAMES)
def test_every_construction_is_reported_and_left_as_it_was(name: str) -> None:
    case = CASES[name]
    made = quantize(build(name), (case.inputs(4),), scheme="lsq", calibration=[case.inputs(8)]).train()
    before, modes = copy.deepcopy(made.state_dict()), [module.training for module in made.modules()]
    x = case.inputs(5)
    report = layer_report(made, [x])
    assert modes == [module.training for module in made.modules()]
    assert all(torch.equal(before[key], value) for key, value in made.state_dict().items())
    quantised = {row["name"] for row in _described(made)}
    assert {row.name for row in report.tensors} <= quantised
    assert len(report.tensors) >= 0.9 * len(quantised)  # a branch may not run, a weight may be computed by a graph
    assert report.sqnr_db is not None
    assert report.sqnr_db > 10
    assert json.loads(report.to_json())["samples"] == 5
    assert all(row.name in str(report) for row in report.tensors)
    with bypassed(made.eval()), torch.no_grad():
        passed = made(x)
        expected = build(name)(x)
    first = passed[0] if isinstance(passed, tuple) else passed
    torch.testing.assert_close(first, expected[0] if isinstance(expected, tuple) else expected, rtol=1e-4, atol=1e-4)


def _described(model: nn.Module) -> list[dict[str, Any]]:
    return [row for row in describe(model) if row["bits"] != 32]


@pytest.mark.parametrize("scheme", SCHEMES)
def test_every_scheme_is_reported_and_bypassed(scheme: str) -> None:
    case = CASES["shared_relu"]
    model = build("shared_relu")
    made = quantize(model, (case.inputs(4),), scheme=scheme, calibration=[case.inputs(8)]).eval()
    x = case.inputs(5)
    with torch.no_grad():
        before = made(x)
        with bypassed(made):
            torch.testing.assert_close(made(x), model(x))  # a ReLU that a sign took the place of included
        assert torch.equal(made(x), before)
    report = layer_report(made, [x])
    assert {row.scheme for row in report.tensors} <= {scheme, "lsq", "dorefa", "iao"}
    binary = [row for row in report.tensors if row.bits == 1]
    assert bool(binary) == (scheme == "wbwtab")
    assert all(row.clipped is None and row.used == 100 for row in binary)


@pytest.mark.parametrize("options", [{}, {"input_scale": True}])
def test_binary_networks_are_held_against_their_float_network(options: dict[str, Any]) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AvgPool2d(2), nn.Conv2d(4, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(4, 5)
    ).eval()
    made = quantize(model, (images(),), scheme="wbwtab", calibration=[images()], **options).eval()
    report = layer_report(made, [images()])
    assert report.sqnr_db == pytest.approx(db(model(images()).detach(), made(images()).detach()), abs=1e-3)
    assert [row.name for row in report.outputs] == ["3"]
    inner = model[:4](images()).detach()
    found: list[Tensor] = []
    made.get_submodule("3").register_forward_hook(lambda _module, _args, output: found.append(output.detach()))
    made(images())
    assert report.outputs[0].sqnr_db == pytest.approx(db(inner, found[0]), abs=1e-3)


def test_layers_written_by_hand_and_folded_ones_are_reported() -> None:
    model = nn.Sequential(
        QuantConv2d(3, 4, 3, scheme="wbwtab", a_bits=32),
        nn.BatchNorm2d(4),
        QuantReLU(scheme="wbwtab"),
        nn.Flatten(),
        QuantLinear(144, 5, scheme="iao", w_bits=32),
    )
    calibrate(model, [images()])
    report = layer_report(model, [images()])
    assert [row.name for row in report.tensors] == ["0", "2.output_quantizer", "4.input_quantizer"]
    assert [row.name for row in report.outputs] == ["0", "2", "4"]
    folded = fold_batch_norms(model.eval(), (images(),)).model
    assert [row.name for row in layer_report(folded, [images()]).tensors] == ["2.output_quantizer", "4.input_quantizer"]


def test_one_layer_at_a_time_is_what_a_conversion_of_that_layer_alone_gives() -> None:
    model, x = net(), images(20, 3)
    labels = model(x).argmax(1)
    found = sensitivity(model, (x,), [(x[:8], labels[:8]), (x[8:], labels[8:])], scheme="iao", w_bits=2, a_bits=2)
    assert [row.name for row in found.layers] == ["0", "3"]
    assert found.float_top1 == 100
    whole = quantize(model, (x,), scheme="iao", w_bits=2, a_bits=2, calibration=[x[:8], x[8:]]).eval()
    assert found.quantized_top1 == pytest.approx(100 * float((whole(x).argmax(1) == labels).float().mean()))
    for row, other in zip(found.layers, ("3", "0"), strict=True):
        alone = quantize(model, (x,), scheme="iao", w_bits=2, a_bits=2, skip=[other], calibration=[x]).eval()
        ranges = whole.state_dict()  # found behind quantised weights
        alone.load_state_dict({key: ranges[key] for key in alone.state_dict()})
        with torch.no_grad():
            assert row.sqnr_db == pytest.approx(db(model(x), alone(x)), abs=1e-2)
        assert row.top1 == pytest.approx(100 * float((alone(x).argmax(1) == labels).float().mean()))
        assert row.drop == pytest.approx(100 - row.top1)
        assert (row.w_bits, row.a_bits) == (2, 2)
    assert str(found).splitlines()[1].startswith(found.ranked()[0].name)


def test_activations_in_place_do_not_spoil_what_is_compared() -> None:
    torch.manual_seed(0)
    layers = [nn.Conv2d(3, 4, 3), nn.SiLU(), nn.Conv2d(4, 4, 3), nn.Flatten(), nn.Linear(64, 5)]
    plain = quantize(nn.Sequential(*layers).eval(), (images(),), scheme="iao", w_bits=4, calibration=[images()])
    layers[1] = nn.SiLU(inplace=True)
    in_place = quantize(nn.Sequential(*layers).eval(), (images(),), scheme="iao", w_bits=4, calibration=[images()])
    assert layer_report(in_place, [images()]).outputs == layer_report(plain, [images()]).outputs


def test_without_labels_the_noise_of_the_first_batch_ranks() -> None:
    quick = sensitivity(net(), (images(),), [images(), images(5, 9)], accuracy=False, w_bits=3, first_layer_float=False)
    alone = sensitivity(net(), (images(),), [images()], w_bits=3, first_layer_float=False)
    assert quick.to_json() == alone.to_json()
    assert quick.float_top1 is None
    assert all(row.top1 is None and row.sqnr_db is not None for row in quick.layers)


def test_what_cannot_be_reported_is_refused() -> None:
    with pytest.raises(StageError) as caught:
        layer_report(net(), [images()])
    assert caught.value.code == "MC422"
    made = quantize(net(), (images(),), scheme="iao")
    with pytest.raises(StageError) as caught:
        layer_report(made, [images()])
    assert caught.value.code == "MC423"
    calibrate(made, [images()])
    with pytest.raises(StageError, match="saw no data"):
        layer_report(made, [])
    with pytest.raises(UsageError, match="w_bits"):
        sensitivity(made, (images(),), [images()], w_bits=4)
    with pytest.raises(UsageError, match="at least one batch"):
        sensitivity(made, (images(),), [])
