from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import onnx
import pytest
import torch
from torch import Tensor, nn

import mcomp.data
from mcomp.data import Data
from mcomp.deploy import OnnxSession
from mcomp.deploy.delivery import deliver
from mcomp.deploy.profiles import PROFILES
from mcomp.deploy.settings import DeployOptions
from mcomp.errors import BackendMissingError, StageError
from mcomp.quantization import ActivationQuantizer, quantize
from mcomp.quantization.calibration import quantizers
from mcomp.stages.base import COMMON_METRICS, StageContext, StageResult, Surroundings
from mcomp.stages.builtin.onnx_int8 import OnnxInt8
from mcomp.stages.builtin.openvino_int8 import OpenVinoInt8
from mcomp.stages.builtin.trt_int8 import TrtInt8
from tests.unit.deploy.deploy_networks import Residual, quantised

CALIBRATION = {"method": "minmax", "samples": 32}
STAGES: list[Any] = [OnnxInt8, TrtInt8]


@pytest.fixture(scope="module")
def data() -> Data:
    return mcomp.data.load("digits", image_size=8, limit=100)


def run(stage: Any, model: nn.Module, data: Data, folder: Path, **options: Any) -> StageResult:
    context = StageContext(model, data.example_inputs, data, folder, stage_id=stage.name)
    return stage().run(context, stage.Options(latency_runs=2, **options))


@pytest.mark.parametrize("stage", STAGES)
def test_a_quantised_model_goes_out_with_all_its_figures(stage: Any, data: Data, tmp_path: Path) -> None:
    result = run(stage, quantised(levels=127), data, tmp_path)
    assert result.metrics["top1_backend"] == "onnxruntime"
    assert result.metrics["agreement"] >= 97
    assert result.metrics["exact"] == "yes"
    assert result.metrics["bytes"] < result.metrics["fp32_bytes"]
    assert set(stage.traits.metrics) - set(result.metrics) <= {
        "engine_top1", "engine_agreement", "engine_latency_ms", "engine_int8_layers"
    }  # fmt: skip
    assert set(result.metrics) <= stage.traits.metrics | COMMON_METRICS
    assert all(path.exists() for path in result.files.values())
    assert json.loads(result.files["qparams.json"].read_text())["exact"] is True
    compared = sum(row["elements"] for row in result.details["integers"])
    assert sum(row["differing"] for row in result.details["integers"]) <= 1e-3 * compared
    assert max(row["largest"] for row in result.details["integers"]) <= 1
    json.dumps(result.details)


class Small(nn.Module):
    """Convolutions whose biases matter beside few levels."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 8, 3, padding=1)
        self.pool, self.head = nn.MaxPool2d(2), nn.Linear(8 * 16, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.pool(torch.relu(self.two(torch.relu(self.one(x)))))
        found: Tensor = self.head(x.flatten(1))
        return found


def of_few_bits(data: Data, **options: Any) -> nn.Module:
    torch.manual_seed(3)
    model = Small()
    images, _ = next(data.train.batches(64))
    settings = {"scheme": "lsq", "first_layer_float": False, "last_layer_float": False, **options}
    made = quantize(model, (images[:2],), calibration=[images], **settings).eval()
    for layer in (made.one, made.two, made.head):
        layer.bias.data = torch.randn(layer.bias.shape) * 0.3
    return made


@pytest.mark.parametrize("stage", [OnnxInt8, TrtInt8, OpenVinoInt8])
@pytest.mark.parametrize("bits", [(2, 2), (4, 4), (2, 8)])
def test_the_figures_are_those_of_the_network_that_came_in(
    stage: Any, bits: tuple[int, int], data: Data, tmp_path: Path
) -> None:
    if stage is OpenVinoInt8:
        pytest.importorskip("openvino")
    model = of_few_bits(data, w_bits=bits[0], a_bits=bits[1])
    result = run(stage, model, data, tmp_path)
    images, labels = next(data.test.batches(len(data.test)))
    file = next(path for name, path in result.files.items() if name.endswith(".onnx") and "fp32" not in name)
    answers = OnnxSession(file, simulate=True).predict(images)
    with torch.no_grad():
        expected = model(images)
    same = 100.0 * (answers.argmax(1) == expected.argmax(1)).float().mean().item()
    assert abs(result.metrics["agreement"] - same) <= (100.0 / len(images) if stage is OpenVinoInt8 else 0.01)
    assert result.metrics["top1_simulated"] == pytest.approx(
        100.0 * (expected.argmax(1) == labels).float().mean().item()
    )
    assert same >= 95


def test_a_bias_that_moves_is_spoken_of(data: Data, tmp_path: Path) -> None:
    result = run(OnnxInt8, of_few_bits(data, w_bits=2, a_bits=2), data, tmp_path)
    assert any("biases are whole numbers" in note for note in result.notes)
    assert result.metrics["max_abs_error"] > 0


@pytest.mark.parametrize("stage", [OnnxInt8, TrtInt8, OpenVinoInt8])
def test_weights_alone_may_be_integers(stage: Any, data: Data, tmp_path: Path) -> None:
    if stage is OpenVinoInt8:
        pytest.importorskip("openvino")
    result = run(stage, of_few_bits(data, w_bits=4, a_bits=32), data, tmp_path)
    assert result.metrics["agreement"] == 100
    assert result.details["integers"] == []


def test_signs_go_out_as_signs(data: Data, tmp_path: Path) -> None:
    result = run(OnnxInt8, of_few_bits(data, scheme="wbwtab", w_bits=1, a_bits=1), data, tmp_path)
    assert result.metrics["agreement"] >= 95


class Recurrent(nn.Module):
    """Rows of an image one after the other."""

    def __init__(self, kind: type[nn.LSTM] | type[nn.GRU]) -> None:
        super().__init__()
        self.reader, self.head = kind(24, 16, batch_first=True), nn.Linear(16, 10)

    def forward(self, x: Tensor) -> Tensor:
        made: Tensor = self.head(self.reader(x.permute(0, 2, 1, 3).flatten(2))[0][:, -1])
        return made


@pytest.mark.parametrize(
    ("kind", "stage"), [(nn.Linear, OnnxInt8), (nn.LSTM, OnnxInt8), (nn.GRU, OnnxInt8), (nn.Linear, OpenVinoInt8)]
)
def test_ranges_at_run_time_go_out_as_simulated(kind: Any, stage: Any, data: Data, tmp_path: Path) -> None:
    if stage is OpenVinoInt8:
        pytest.importorskip("openvino")
    torch.manual_seed(0)
    layers = (nn.Flatten(), nn.Linear(192, 32), nn.ReLU(), nn.Linear(32, 10))
    model = (nn.Sequential(*layers) if kind is nn.Linear else Recurrent(kind)).eval()
    found = run(stage, quantize(model, data.example_inputs, scheme="dynamic").eval(), data, tmp_path)
    assert found.metrics["exact"] == "yes"
    assert found.metrics["agreement"] == 100
    assert found.metrics["sqnr_db"] >= 60  # a float that differs in its last bit may move a value by one level
    assert found.metrics["top1"] == found.metrics["top1_simulated"]
    assert not any("calibrated" in note for note in found.notes)


@pytest.mark.parametrize("stage", STAGES)
def test_a_float_model_is_calibrated_per_channel(stage: Any, data: Data, tmp_path: Path) -> None:
    result = run(stage, Residual().eval(), data, tmp_path, calibration=CALIBRATION)
    assert any("calibrated, not trained" in note for note in result.notes)
    weights = [row for row in result.details["lowering"]["tensors"] if row["kind"] == "weight"]
    assert len(weights) == 4
    assert all(isinstance(row["scale"], list) for row in weights)
    grids = [module.qmax for module in quantizers(result.model).values()]
    assert max(grids) == PROFILES["tensorrt" if stage is TrtInt8 else "onnxruntime"].levels


def test_calibration_leaves_trained_ranges_and_the_incoming_model_alone(data: Data, tmp_path: Path) -> None:
    model = quantised()
    quantisers = [module for module in model.modules() if isinstance(module, ActivationQuantizer)]
    before = [float(module.scale) for module in quantisers]
    fresh = quantize(Residual().eval(), data.example_inputs, first_layer_float=False).eval()
    run(OnnxInt8, model, data, tmp_path, calibration=CALIBRATION)
    assert [float(module.scale) for module in quantisers] == before
    run(OnnxInt8, fresh, data, tmp_path, calibration=CALIBRATION)
    assert not any(module.ready for module in fresh.modules() if isinstance(module, ActivationQuantizer))


@pytest.mark.parametrize("stage", STAGES)
def test_a_float_model_without_calibration_is_a_static_fault(stage: Any, data: Data, tmp_path: Path) -> None:
    options = stage.Options()
    [finding] = stage.check(options, Surroundings(have=frozenset({"float", "bn"})))
    assert finding.message == (
        f"{stage.name} on a float model needs calibration data: "
        "add `quantize` before it or give `calibration: {method: entropy, samples: 512}`"
    )
    assert stage.check(options, Surroundings(have=frozenset({"quantized"}))) == []
    assert stage.check(stage.Options(calibration=CALIBRATION), Surroundings()) == []
    with pytest.raises(StageError, match="without calibration data"):
        run(stage, Residual().eval(), data, tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_without_tensorrt_the_graph_the_scales_and_the_command_are_still_there(
    data: Data, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def absent(*_: object, **__: object) -> None:
        raise BackendMissingError("TensorRT is not installed", code="MC611")

    monkeypatch.setattr("mcomp.deploy.tensorrt.api.load_tensorrt", absent)
    result = run(TrtInt8, quantised(levels=127), data, tmp_path)
    assert set(result.files) == {"model.trt.onnx", "qparams.json", "model.fp32.onnx", "trtexec.txt"}
    assert any(note.startswith("engine not built: TensorRT is not installed") for note in result.notes)
    assert any("verified_on: none" in note for note in result.notes)
    assert result.details["engine"]["status"] == "skipped"
    with pytest.raises(BackendMissingError) as caught:
        run(TrtInt8, quantised(levels=127), data, tmp_path, on_missing="fail")
    assert caught.value.exit_code == 7


def test_the_backend_is_part_of_the_key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mcomp.deploy.tensorrt.api.installed_version", lambda: None)
    monkeypatch.setattr("mcomp.training.hardware.gpu", lambda index=0: None)
    absent = TrtInt8.key_parts(TrtInt8.Options())
    assert (absent["tensorrt"], absent["gpu"]) == ("absent", "absent")
    assert absent["onnx"]
    assert absent["onnxruntime"]
    monkeypatch.setattr("mcomp.deploy.tensorrt.api.installed_version", lambda: "11.4.0")
    monkeypatch.setattr("mcomp.training.hardware.gpu", lambda index=0: {"name": "H200", "sm": 90})
    present = TrtInt8.key_parts(TrtInt8.Options())
    assert (present["tensorrt"], present["gpu"]) == ("11.4.0", "H200")


def test_two_engines_on_one_line_are_refused() -> None:
    assert TrtInt8.traits.provides == TrtInt8.traits.conflicts == {"engine"}


def test_a_batch_range_that_is_not_in_order_is_refused() -> None:
    with pytest.raises(ValueError, match="not in order"):
        TrtInt8.Options(batch={"min": 8, "opt": 4, "max": 2})


def test_a_file_that_breaks_a_rule_is_not_delivered(
    data: Data, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from mcomp.deploy import delivery, onnx_writer

    def broken(*arguments: Any, **keywords: Any) -> Any:
        lowering = onnx_writer.to_onnx(*arguments, **keywords)
        if keywords.get("metadata"):
            model = onnx.load(lowering.path)
            for node in model.graph.node:
                if node.op_type == "QuantizeLinear":
                    del node.input[2:]
            onnx.save(model, lowering.path)
        return lowering

    monkeypatch.setattr(delivery, "to_onnx", broken)
    with pytest.raises(StageError, match="first E2 at"):
        deliver(
            quantised(), data.example_inputs, None, tmp_path,
            target="tensorrt", file_name="m.onnx", options=DeployOptions(),
        )  # fmt: skip
