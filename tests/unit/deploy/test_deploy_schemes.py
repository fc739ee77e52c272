"""What every scheme trained is what its file computes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from mcomp.deploy import check_qdq, to_onnx
from mcomp.deploy.integer_form import WeightSite
from mcomp.deploy.marking import mark
from mcomp.deploy.onnx_session import OnnxSession
from mcomp.deploy.profiles import PROFILES
from mcomp.deploy.weight_lowering import lower_weight
from mcomp.errors import StageError
from mcomp.quantization import calibrate, quantize
from mcomp.quantization.quantizers import AffineQuantizer
from tests.unit.deploy.deploy_networks import Residual, images

SCHEMES: dict[str, dict[str, Any]] = {
    "iao": {},
    "iao asymmetric activations": {"symmetric_activations": False},
    "iao 4 bits": {"w_bits": 4, "a_bits": 4},
    "iao folded": {"fold_bn": "correction", "per_channel": False},
    "lsq": {},
    "lsq 2 bits": {"w_bits": 2, "a_bits": 2},
    "lsq_plus": {},
    "pact": {"per_channel": True},
    "ristretto": {},
    "ristretto saturate": {"overflow": "saturate", "w_bits": 6},
    "ristretto folded": {"fold_bn": "correction"},
    "wbwtab": {},
    "wbwtab 01": {"codes": "01", "w_bits": 2},
}


def quantised(name: str, **options: Any) -> nn.Module:
    torch.manual_seed(0)
    model = Residual()
    model.train()(images())
    made = quantize(model.eval(), (images(2),), scheme=name.split()[0], **SCHEMES.get(name, {}), **options)
    calibrate(made, [images()], "minmax")
    made.train()(images())
    return made.eval()


@pytest.mark.parametrize("name", SCHEMES)
def test_onnxruntime_computes_what_was_trained(tmp_path: Path, name: str) -> None:
    model, x = quantised(name), images()
    lowering = to_onnx(model, (images(2),), tmp_path / "m.onnx")
    assert lowering.exact, lowering.notes
    assert not [each for each in check_qdq(lowering.path, "onnxruntime") if each.severity == "error"]
    expected = model(x).detach()
    for simulate in (True, False):  # as the graph says, and with integer kernels
        found = torch.as_tensor(OnnxSession(lowering.path, simulate=simulate).predict(x))
        # a sum in another order may move single activations to the next level
        assert float((found - expected).norm() / expected.norm()) < 0.03


@pytest.mark.parametrize("name", ["iao", "lsq", "pact", "ristretto", "wbwtab"])
def test_tensorrt_takes_symmetric_schemes_as_they_are(tmp_path: Path, name: str) -> None:
    lowering = to_onnx(quantised(name, levels=127), (images(2),), tmp_path / "m.onnx", "tensorrt")
    assert lowering.exact, lowering.notes
    assert {row.dtype for row in lowering.tensors if row.kind == "activation"} <= {"int8"}


def test_tensorrt_rounds_zero_points_away_and_says_so(tmp_path: Path) -> None:
    lowering = to_onnx(quantised("lsq_plus"), (images(2),), tmp_path / "m.onnx", "tensorrt")
    assert not lowering.exact
    assert any("zero point" in note for note in lowering.notes)


@pytest.mark.parametrize("per_channel", [False, True])
def test_weights_with_zero_points_keep_their_values(tmp_path: Path, per_channel: bool) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 6, 3), nn.ReLU(), nn.Flatten(), nn.Linear(6 * 36, 4)).eval()
    with torch.no_grad():
        model[0].weight.add_(0.1)
    made = quantize(model, (images(2),), scheme="iao", symmetric_weights=False, per_channel=per_channel)
    calibrate(made, [images()])
    lowering = to_onnx(made.eval(), (images(2),), tmp_path / "m.onnx")
    weights = {row.name: row for row in lowering.tensors if row.kind == "weight"}
    assert lowering.exact
    if not per_channel:
        assert weights["0.weight"].zero_point
        assert weights["0.weight"].dtype == "int8"
    found = torch.as_tensor(OnnxSession(lowering.path, simulate=True).predict(images()))
    expected = made(images()).detach()
    assert float((found - expected).norm() / expected.norm()) < 0.02


@pytest.mark.parametrize("target", PROFILES.values(), ids=PROFILES)
@pytest.mark.parametrize(("low", "high", "zero"), [(-128, 127, -20), (0, 255, 100), (-32768, 32767, 5), (-8, 7, -3)])
def test_a_stored_weight_with_a_zero_point_is_off_by_no_more_than_the_table_says(
    target: Any, low: int, high: int, zero: int
) -> None:
    values = np.linspace(low, high, 24).astype(np.int32).reshape(4, 6)
    bits = int(np.ceil(np.log2(high - low + 1)))
    site = WeightSite("w", bits, values, np.full(1, 0.5, np.float32), True, 0.0, "", zero)
    grid = lower_weight(site, target)
    stored = (grid.values.astype(np.float64) - grid.row.zero_point) * grid.scale[:, None]
    assert np.abs(stored - (values - zero) * 0.5).max() <= grid.row.max_abs_error + 1e-9
    assert grid.row.exact == (grid.row.max_abs_error == 0)


def test_ranges_that_no_constant_scale_can_express_are_refused() -> None:
    for quantizer, why in ((AffineQuantizer(), "found anew"), (AffineQuantizer(8, True, 1, "minmax"), "per channel")):
        model = nn.Sequential(quantizer, nn.Conv2d(3, 4, 1)).train()
        model(images(2))
        with pytest.raises(StageError, match=why) as caught:
            mark(model, "torchscript")
        assert caught.value.code == "MC431"
