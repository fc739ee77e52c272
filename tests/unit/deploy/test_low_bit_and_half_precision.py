"""Weights in INT4 and INT2, and the float rest of a graph in half precision."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto
from torch import nn

from mcomp.deploy import OnnxSession, check_qdq, to_onnx
from mcomp.deploy.half_precision import half_scale
from mcomp.deploy.integer_form import WeightSite
from mcomp.deploy.onnx_graph import OnnxGraph
from mcomp.deploy.profiles import PROFILES
from mcomp.deploy.weight_lowering import lower_weight
from mcomp.errors import StageError, UsageError
from mcomp.metrics import sqnr_db
from mcomp.quantization import fold_batch_norms, quantize
from tests.unit.deploy.deploy_networks import Residual, chain, images, quantised

HALVES_APART = 2**-10  # a half-precision number is off by that share at most, above its subnormal range


def weights(path: Path) -> dict[str, onnx.TensorProto]:
    return {each.name: each for each in onnx.load(path).graph.initializer if "_integers" in each.name and each.dims[1:]}


@pytest.mark.parametrize(
    ("options", "kind", "bits"),
    [
        ({"w_bits": 4, "a_bits": 8}, TensorProto.INT4, 4),
        ({"w_bits": 2, "a_bits": 8}, TensorProto.INT4, 4),  # INT2 only where a layer reads floats
        ({"w_bits": 2, "a_bits": 32}, TensorProto.INT2, 2),
        ({"scheme": "wbwtab", "w_bits": 2, "a_bits": 32, "last_layer_float": False}, TensorProto.INT2, 2),
        ({"scheme": "wbwtab", "w_bits": 1, "a_bits": 32, "last_layer_float": False}, TensorProto.INT2, 2),
    ],
    ids=str,
)
def test_weights_of_few_bits_take_as_many_and_keep_their_values(
    tmp_path: Path, options: dict[str, Any], kind: int, bits: int
) -> None:
    model, x = quantised(Residual(), **options), images(8)
    lowering = to_onnx(model, (x[:2],), tmp_path / "m.onnx", low_bit=True)
    assert lowering.exact
    found = weights(lowering.path)
    assert {tensor.data_type for tensor in found.values()} == {kind}
    for tensor in found.values():
        assert len(tensor.raw_data) == -(-int(np.prod(tensor.dims)) * bits // 8)
    with torch.no_grad():
        expected = fold_batch_norms(model, (x,)).model(x)
    assert sqnr_db(expected, OnnxSession(lowering.path).predict(x)) > 40


def test_unless_it_is_asked_for_few_bits_are_stored_as_int8_which_runs_faster(tmp_path: Path) -> None:
    lowering = to_onnx(quantised(w_bits=2), (images(2),), tmp_path / "m.onnx")
    assert {tensor.data_type for tensor in weights(lowering.path).values()} == {TensorProto.INT8}


def test_tensorrt_gets_int4_for_matrices_of_even_rows_only(tmp_path: Path) -> None:
    class Matrices(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.even, self.odd = nn.Conv2d(3, 6, 3), nn.Linear(6, 7), nn.Linear(7, 5)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.odd(self.even(self.conv(x).mean((2, 3))))

    model = quantised(Matrices(), w_bits=4, levels=127)
    lowering = to_onnx(model, (images(2),), tmp_path / "m.onnx", "tensorrt", low_bit=True)
    kinds = {name.partition(".")[0]: tensor.data_type for name, tensor in weights(lowering.path).items()}
    assert kinds == {"conv": TensorProto.INT8, "even": TensorProto.INT4, "odd": TensorProto.INT8}
    assert not [each for each in check_qdq(lowering.path) if each.severity == "error"]


@pytest.mark.parametrize("profile", ["tensorrt", "openvino", "portable", "onnxruntime", "float"])
@pytest.mark.parametrize("network", [chain, Residual])
def test_half_precision_is_everywhere_but_at_the_ends(tmp_path: Path, network: Any, profile: Any) -> None:
    model, x = quantised(network(), levels=127), images(8)
    lowering = to_onnx(model, (x[:2],), tmp_path / "m.onnx", profile, precision="fp16")
    graph = onnx.load(lowering.path).graph
    assert {value.type.tensor_type.elem_type for value in (*graph.input, *graph.output)} == {TensorProto.FLOAT}
    assert TensorProto.FLOAT not in {tensor.data_type for tensor in graph.initializer}
    with torch.no_grad():
        expected = fold_batch_norms(model, (x,)).model(x)
    assert sqnr_db(expected, OnnxSession(lowering.path, simulate=True).predict(x)) > (5 if profile == "float" else 20)
    if profile == "tensorrt":
        assert not [each for each in check_qdq(lowering.path) if each.severity == "error"]


def test_rounded_scales_are_said_to_be_inexact_with_their_error(tmp_path: Path) -> None:
    lowering = to_onnx(quantised(levels=127), (images(2),), tmp_path / "m.onnx", "tensorrt", precision="fp16")
    assert not lowering.exact
    rounded = [row for row in lowering.tensors if not row.exact]
    assert len(rounded) > 1
    assert all("half precision" in row.why for row in rounded)
    (note,) = [note for note in lowering.notes if "half precision" in note]
    assert note.startswith(f"{len(rounded)} tensors are not exact, first `{rounded[0].name}`")
    assert f"{max(row.max_abs_error for row in rounded):.2g}" in note


@given(st.floats(1e-5, 1.0), st.integers(0, 2**31))
def test_integers_follow_a_scale_to_half_precision(scale: float, seed: int) -> None:
    values = np.random.default_rng(seed).integers(-127, 128, (4, 9)).astype(np.int32)
    site = WeightSite("w", 8, values, np.full(4, scale, np.float32), True, 0.0, "")
    grid = lower_weight(site, PROFILES["tensorrt"], half=True)
    assert np.array_equal(grid.scale, half_scale(grid.scale))
    found = grid.values.astype(np.float64) * grid.scale[:, None]
    error = np.abs(found - values * np.float64(np.float32(scale))).max()
    assert error <= grid.row.max_abs_error * (1 + 1e-6)
    # half a step, or one that was cut at the end of the type
    assert error <= max(grid.scale) * (0.5 + 127 * HALVES_APART * max(1, 2**-14 / scale))


def test_constants_beyond_half_precision_are_cut_and_that_is_said(tmp_path: Path) -> None:
    class Large(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.minimum(x, torch.full((3, 1, 1), 1e9))

    lowering = to_onnx(Large(), (images(2),), tmp_path / "m.onnx", "float", precision="fp16")
    assert any("65504" in note for note in lowering.notes)
    assert torch.isfinite(OnnxSession(lowering.path).predict(images(2))).all()


def test_an_opset_without_the_types_is_refused(tmp_path: Path) -> None:
    for opset, options, what in ((20, {"low_bit": True}, "INT4"), (18, {"precision": "fp16"}, "half-precision")):
        with pytest.raises(UsageError, match=f"opset {opset} has no {what}"):
            to_onnx(quantised(w_bits=2), (images(2),), tmp_path / "m.onnx", opset=opset, **options)  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="newer than what onnx"):
        to_onnx(quantised(), (images(2),), tmp_path / "m.onnx", opset=99)


def test_ranges_found_at_run_time_have_no_half_precision(tmp_path: Path) -> None:
    model = quantize(chain().eval(), (images(2),), scheme="dynamic").eval()
    with pytest.raises(StageError, match="half precision"):
        to_onnx(model, (images(2),), tmp_path / "m.onnx", precision="fp16")


def test_the_portable_file_is_plain_onnx_13(tmp_path: Path) -> None:
    lowering = to_onnx(quantised(w_bits=4, a_bits=4), (images(2),), tmp_path / "m.onnx", "portable")
    model = onnx.load(lowering.path)
    assert [(entry.domain, entry.version) for entry in model.opset_import] == [("", 13)]
    assert lowering.exact
    graph = OnnxGraph(model)
    limits = [graph.array(name) for node in graph.nodes if node.op_type == "Clip" for name in node.input[1:] if name]
    assert limits
    assert {None if limit is None else str(limit.dtype) for limit in limits} == {"float32"}  # none clips integers
