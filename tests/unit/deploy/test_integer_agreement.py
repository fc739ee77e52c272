"""Layer by layer, the integers of a file are those that were simulated."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper
from torch import nn

from mcomp.deploy import OnnxSession, to_onnx
from mcomp.deploy.integer_agreement import compare_integers
from mcomp.deploy.preparation import prepare
from mcomp.quantization.accumulator_bias import round_biases
from mcomp.quantization.folded import FoldedLayer
from tests.unit.deploy.deploy_networks import Residual, chain, images, quantised

#: Sums of floats in another order may fall on the other side of a half.
TIES = 1e-3


@pytest.mark.parametrize("simulate", [False, True])
@pytest.mark.parametrize("options", [{}, {"w_bits": 4, "a_bits": 4}, {"w_bits": 2, "a_bits": 3}], ids=str)
@pytest.mark.parametrize("network", [chain, Residual])
def test_the_integer_kernels_of_onnxruntime_compute_the_simulated_integers(
    tmp_path: Path, network: Any, options: dict[str, Any], simulate: bool
) -> None:
    prepared = prepare(quantised(network(), **options), (images(2),), "onnxruntime", lambda: [images()])
    lowering = to_onnx(prepared.model, (images(2),), tmp_path / "m.onnx")
    rows = compare_integers(lowering.path, prepared.model, images(32, seed=3), simulate)
    assert len(rows) >= 4
    assert max(row.largest for row in rows) <= 1
    # of so few levels and so few weights many sums are halves to the last bit
    ties = 5e-3 if options.get("w_bits") == 2 else TIES
    assert sum(row.differing for row in rows) <= ties * sum(row.elements for row in rows)


@pytest.mark.parametrize("bits", [4, 2])
def test_weights_stored_in_few_bits_change_no_integer(tmp_path: Path, bits: int) -> None:
    prepared = prepare(quantised(chain(), w_bits=bits), (images(2),), "onnxruntime", lambda: [images()])
    lowering = to_onnx(prepared.model, (images(2),), tmp_path / "m.onnx", low_bit=True)
    assert lowering.exact
    assert "int4" in {row.dtype for row in lowering.tensors}
    biases = [row for row in lowering.tensors if row.kind == "bias"]
    assert biases
    assert all(row.exact and row.max_abs_error == 0 for row in biases)
    rows = compare_integers(lowering.path, prepared.model, images(32, seed=3))
    assert sum(row.differing for row in rows) <= 1e-4 * sum(row.elements for row in rows)


def test_biases_of_layers_without_an_integer_kernel_stay_the_same_floats(tmp_path: Path) -> None:
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.ConvTranspose2d(8, 4, 3), nn.Sigmoid())
    made = quantised(model, w_bits=2)
    lowering = to_onnx(made, (images(2),), tmp_path / "m.onnx")
    stored = {each.name: numpy_helper.to_array(each) for each in onnx.load(lowering.path).graph.initializer}
    bias: Any = made.get_parameter("2.bias").detach()
    whole, scale = stored["2.bias_integers"].astype(np.float64), stored["2.bias_scale"].astype(np.float64)
    assert np.array_equal((whole * scale).astype(np.float32), bias.numpy())
    with torch.no_grad():
        expected = made(images(8))
    assert (OnnxSession(lowering.path).predict(images(8)) - expected).abs().max() < 1e-2


def test_a_layer_that_computes_something_else_is_found(tmp_path: Path) -> None:
    prepared = prepare(quantised(Residual()), (images(2),), "onnxruntime", lambda: [images()])
    path = to_onnx(prepared.model, (images(2),), tmp_path / "m.onnx").path
    model = onnx.load(path)
    weight = next(each for each in model.graph.initializer if each.name == "first.0.weight_integers")
    changed = numpy_helper.to_array(weight).copy()
    changed[0] = -changed[0]
    weight.CopyFrom(numpy_helper.from_array(changed, weight.name))
    onnx.save(model, path)
    wrong = [
        row.name for row in compare_integers(path, prepared.model, images(8)) if row.differing > TIES * row.elements
    ]
    assert len(wrong) == 1
    assert "first" in wrong[0]


def test_biases_are_whole_numbers_of_the_accumulators_unit_and_move_by_half_of_one_at_most(tmp_path: Path) -> None:
    model = quantised(Residual())
    prepared = prepare(model, (images(2),), "onnxruntime", lambda: [images()])
    lowering = to_onnx(prepared.model, (images(2),), tmp_path / "m.onnx")
    rows = [row for row in lowering.tensors if row.kind == "bias"]
    assert len(rows) == 4
    # float32 holds the product of a whole number and a unit to its own precision
    assert all(row.max_abs_error <= 1e-6 for row in rows)
    before = prepare(model, (images(2),), "tensorrt").model
    for name, layer in before.named_modules():
        if isinstance(layer, FoldedLayer):
            after: Any = prepared.model.get_submodule(name)
            unit = max(row.scale if isinstance(row.scale, float) else max(row.scale) for row in rows)
            assert float((layer.bias - after.bias).abs().max()) <= unit


@pytest.mark.parametrize("norms", [True, False])
def test_biases_of_few_bits_are_rounded_where_they_are_measured(tmp_path: Path, norms: bool) -> None:
    model: nn.Module = chain() if norms else nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.ReLU())
    made = quantised(model, scheme="lsq", w_bits=4, a_bits=4)
    prepared = prepare(made, (images(2),), "onnxruntime", lambda: [images()])
    lowering = to_onnx(prepared.model, (images(2),), tmp_path / "m.onnx")
    rows = [row for row in lowering.tensors if row.kind == "bias"]
    assert rows
    assert all(row.max_abs_error <= 1e-6 for row in rows)
    compared = compare_integers(lowering.path, prepared.model, images())
    assert sum(row.differing for row in compared) <= TIES * sum(row.elements for row in compared)


def test_rounding_biases_again_changes_nothing() -> None:
    prepared = prepare(quantised(chain()), (images(2),), "onnxruntime", lambda: [images()])
    assert round_biases(prepared.model) == pytest.approx(0, abs=1e-7)


def test_a_dead_channel_keeps_a_fine_bias(tmp_path: Path) -> None:
    model = nn.Sequential(nn.Conv2d(3, 16, 1), nn.ReLU(), nn.Conv2d(16, 16, 1), nn.ReLU(), nn.Conv2d(16, 4, 1))
    torch.manual_seed(0)
    with torch.no_grad():
        model[2].weight[3] = 0
        model[2].bias[3] = 0.123
    prepared = prepare(model.eval(), (images(2),), "onnxruntime", lambda: [images()])
    lowering = to_onnx(prepared.model, (images(2),), tmp_path / "m.onnx")
    row = next(row for row in lowering.tensors if row.name == "2.weight")
    assert isinstance(row.scale, list)
    assert row.scale[3] == pytest.approx(np.median(row.scale), rel=0.5)
    assert all(row.max_abs_error < 1e-3 for row in lowering.tensors if row.kind == "bias")
    rows = compare_integers(lowering.path, prepared.model, images(8))
    assert not sum(row.differing for row in rows)


def test_what_is_written_over_in_place_is_compared_as_it_was(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.Hardswish(inplace=True), nn.Conv2d(8, 8, 3), nn.ReLU(inplace=True))
    images = torch.randn(8, 3, 10, 10)
    prepared = prepare(model.eval(), (images,), "onnxruntime", lambda: [images]).model
    lowering = to_onnx(prepared, (images,), tmp_path / "m.onnx", "onnxruntime")
    rows = compare_integers(lowering.path, prepared, images)
    assert max(row.largest for row in rows) <= 1
    assert sum(row.differing for row in rows) <= 1e-3 * sum(row.elements for row in rows)
