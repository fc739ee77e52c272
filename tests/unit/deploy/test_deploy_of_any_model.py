"""What conversion quantises is what the file computes, whatever the network is built of."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from mcomp.deploy import OnnxSession, check_qdq, to_onnx
from mcomp.deploy.integer_agreement import compare_integers
from mcomp.errors import StageError
from mcomp.metrics import sqnr_db
from mcomp.quantization import fold_batch_norms, quantize
from tests.unit.quantization.conversion_nets import CASES, build

#: One output tensor, and a graph.
NAMES = [name for name, case in CASES.items() if name != "structured_output" and case.route != "modules"]
QUICK = {"attention_by_hand", "encoder_pre_batch_first", "lstm", "unet", "bare_parameters", "exported_attention"}


@pytest.mark.parametrize(
    "name", [name if name in QUICK else pytest.param(name, marks=pytest.mark.slow) for name in NAMES]
)
def test_the_file_computes_what_was_simulated(tmp_path: Path, name: str) -> None:
    inputs = CASES[name].inputs
    torch.manual_seed(0)
    model = quantize(build(name), (inputs(4),), scheme="iao", calibration=[inputs(8)], levels=127).eval()
    x = inputs(5)
    simulated = fold_batch_norms(model, (x,)).model
    with torch.no_grad():
        expected = simulated(x)
    for profile in ("onnxruntime", "tensorrt"):
        lowering = to_onnx(model, (inputs(4),), tmp_path / f"{profile}.onnx", profile)  # type: ignore[arg-type]
        assert lowering.exact, lowering.notes
        if sqnr_db(expected, OnnxSession(lowering.path, simulate=True).predict(x)) <= 60:
            # sums and sigmoids in another order or approximation: a value in the middle of two may go either way
            rows = compare_integers(lowering.path, simulated, x, simulate=True)
            assert 0 < sum(row.differing for row in rows) <= max(1, sum(row.elements for row in rows) // 1000)
            assert max(row.largest for row in rows) == 1
        assert not [each for each in check_qdq(lowering.path, profile) if each.severity == "error"]  # type: ignore[arg-type]


def test_a_model_that_no_graph_holds_is_refused_with_the_line() -> None:
    inputs = CASES["control_flow"].inputs
    model = quantize(build("control_flow"), (inputs(4),), scheme="iao", calibration=[inputs(8)])
    with pytest.raises(StageError, match=r"if y\.mean"):
        to_onnx(model, (inputs(4),), "never.onnx")
