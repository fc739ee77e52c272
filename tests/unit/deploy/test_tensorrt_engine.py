from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from mcomp.deploy import tensorrt_api, tensorrt_engine
from mcomp.deploy.tensorrt_engine import Engine, ShapeRange, TorchDevice, build_engine, trtexec_command
from mcomp.errors import BackendMissingError, McompError, StageError

TABLE: dict[str, Any] = json.loads((Path(__file__).parents[2] / "data" / "trt_api.json").read_text())
SHAPES = {"input": ShapeRange([1, 3, 8, 8], [4, 3, 8, 8], [8, 3, 8, 8])}
REMOVED_IN_11 = (
    "int8_calibrator", "IInt8", "set_dynamic_range", "BuilderFlag", "EXPLICIT_BATCH", "max_workspace_size",
    "build_engine(network", "execute_async_v2", "platform_has_fast", "num_bindings", "get_binding", "max_batch_size",
    "device_memory_size", "CalibrationAlgoType", "set_output_type",
)  # fmt: skip


@pytest.mark.parametrize("path", tensorrt_api.USED_API)
@pytest.mark.parametrize("version", ["10.16", "11.4"])
def test_every_name_we_use_exists_in_both_majors(version: str, path: str) -> None:
    owner, _, member = path.partition(".")
    known = TABLE[version]
    if not member:
        assert owner in known["top_level"] or owner in known["classes"]
    elif owner in known["classes"]:
        assert member in known["classes"][owner]
    else:
        assert owner in known["top_level"]


def test_every_attribute_in_the_source_is_declared_as_used() -> None:
    source = Path(tensorrt_engine.__file__).read_text()
    declared = set(tensorrt_api.USED_API)
    for owner, member in re.findall(r"\btrt\.([A-Z]\w+)(?:\.([A-Z]\w*))?", source):
        assert owner in {path.partition(".")[0] for path in declared}
        assert not member or f"{owner}.{member}" in declared


def test_nothing_that_tensorrt_11_removed_is_used() -> None:
    source = Path(tensorrt_engine.__file__).read_text()
    assert [name for name in REMOVED_IN_11 if name in source] == []


class Fake:
    """A TensorRT made of the recorded names: anything else is an AttributeError; calls are recorded in order."""

    def __init__(self, version: str, **answers: Any) -> None:
        self.known = TABLE[version]
        self.calls: list[str] = []
        self.answers = {
            "OnnxParser.parse": True,
            "Builder.build_serialized_network": b"plan",
            "INetworkDefinition.num_inputs": 1,
            "IBuilderConfig.add_optimization_profile": 0,
            "ITimingCache.serialize": b"cache",
            "EngineInspector.get_engine_information": json.dumps(
                {"Layers": [{"Name": "int8", "Outputs": [{"Format/Datatype": "Int8 NC/32HW32"}]}, "bare"]}
            ),
            "ICudaEngine.num_io_tensors": 2,
            "IExecutionContext.set_input_shape": True,
            "IExecutionContext.infer_shapes": [],
            "IExecutionContext.get_tensor_shape": (4, 10),
            "IExecutionContext.execute_async_v3": True,
            **answers,
        }
        self.__version__ = self.known["wheel_version"]

    def __getattr__(self, name: str) -> Any:
        if name not in self.known["top_level"] and name not in self.known["classes"]:
            raise AttributeError(name)
        return FakeClass(self, name)


RETURNS = {
    "Builder.create_network": "INetworkDefinition",
    "Builder.create_builder_config": "IBuilderConfig",
    "Builder.create_optimization_profile": "IOptimizationProfile",
    "IBuilderConfig.create_timing_cache": "ITimingCache",
    "IBuilderConfig.get_timing_cache": "ITimingCache",
    "INetworkDefinition.get_input": "ITensor",
    "OnnxParser.get_error": "ParserError",
    "Runtime.deserialize_cuda_engine": "ICudaEngine",
    "ICudaEngine.create_execution_context": "IExecutionContext",
    "ICudaEngine.create_engine_inspector": "EngineInspector",
}
VALUES = {"num_inputs", "num_io_tensors", "num_errors", "name", "shape"}


class FakeClass:
    """A class, an enum or an instance of either."""

    def __init__(self, fake: Fake, name: str) -> None:
        self.__dict__.update(_fake=fake, _name=name)

    def __call__(self, *_: Any) -> FakeClass:
        if f"{self._name}()" in self._fake.answers:
            raise self._fake.answers[f"{self._name}()"]
        self._fake.calls.append(self._name)
        return self

    def __setattr__(self, member: str, value: Any) -> None:
        assert member in self._fake.known["classes"][self._name]
        self._fake.calls.append(f"{self._name}.{member}=")

    def __getattr__(self, member: str) -> Any:
        path, classes = f"{self._name}.{member}", self._fake.known["classes"]
        if self._name in classes and member not in classes[self._name]:
            raise AttributeError(path)
        fixed = {
            "NetworkDefinitionCreationFlag.STRONGLY_TYPED": 1 if self._fake.__version__.startswith("10") else 0,
            "ITensor.name": "input",
            "ITensor.shape": (-1, 3, 8, 8),
            "OnnxParser.num_errors": 1,
        }
        if path in fixed:
            return fixed[path]
        if member in VALUES:
            return self._fake.answers[path]
        if member[0].isupper():
            return path

        def call(*arguments: Any) -> Any:
            self._fake.calls.append(path)
            if path == "ICudaEngine.get_tensor_name":
                return ("input", "output")[arguments[0]]
            if path == "ICudaEngine.get_tensor_mode":
                return f"TensorIOMode.{arguments[0].upper()}"
            if path == "ICudaEngine.get_tensor_dtype":
                return "DataType.FLOAT"
            if path in self._fake.answers:
                return self._fake.answers[path]
            return FakeClass(self._fake, RETURNS[path]) if path in RETURNS else f"<{path}>"

        return call


class HostDevice:
    """Buffers in main memory, in the place of a GPU."""

    name, stream = "Fake GPU sm_90", 7

    def __init__(self) -> None:
        self.synchronised = 0

    def empty(self, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
        return torch.zeros(shape, dtype=dtype)

    def hold(self, tensor: Tensor, dtype: torch.dtype) -> Tensor:
        return tensor.to(dtype).contiguous()

    def synchronise(self) -> None:
        self.synchronised += 1


@pytest.fixture(params=["10.16", "11.4"])
def trt(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Fake:
    fake = Fake(request.param)
    monkeypatch.setattr(tensorrt_engine, "load_tensorrt", lambda: fake)
    return fake


@pytest.fixture
def files(tmp_path: Path) -> tuple[Path, Path]:
    (tmp_path / "m.onnx").write_bytes(b"onnx")
    return tmp_path / "m.onnx", tmp_path / "m.plan"


def before(fake: Fake, first: str, second: str) -> bool:
    return fake.calls.index(first) < fake.calls.index(second)


def test_an_engine_is_built_in_the_documented_order(trt: Fake, files: tuple[Path, Path], tmp_path: Path) -> None:
    info = build_engine(*files, SHAPES, timing_cache=tmp_path / "cache", device=HostDevice())
    assert files[1].read_bytes() == b"plan"
    assert (tmp_path / "cache").read_bytes() == b"cache"
    assert before(trt, "OnnxParser.parse", "IOptimizationProfile.set_shape")
    assert before(trt, "IOptimizationProfile.set_shape", "IBuilderConfig.add_optimization_profile")
    assert before(trt, "IBuilderConfig.add_optimization_profile", "Builder.build_serialized_network")
    assert before(trt, "IBuilderConfig.set_timing_cache", "Builder.build_serialized_network")
    assert (info.layers, info.int8_layers, info.verified_on) == (2, 1, "none")
    assert json.loads((tmp_path / "m.plan.json").read_text())["tensorrt"] == trt.known["wheel_version"]


def test_an_engine_is_called_with_tensors(trt: Fake, files: tuple[Path, Path]) -> None:
    device = HostDevice()
    build_engine(*files, SHAPES, device=device)
    trt.calls.clear()
    assert Engine(files[1], device)(torch.zeros(4, 3, 8, 8)).shape == (4, 10)
    assert before(trt, "IExecutionContext.set_input_shape", "IExecutionContext.get_tensor_shape")
    assert trt.calls.count("IExecutionContext.set_tensor_address") == 2
    assert trt.calls[-1] == "IExecutionContext.execute_async_v3"
    assert device.synchronised == 1


@pytest.mark.parametrize(
    ("answers", "code"),
    [
        ({"OnnxParser.parse": False}, "MC437"),
        ({"IBuilderConfig.add_optimization_profile": -1}, "MC438"),
        ({"Builder.build_serialized_network": None}, "MC439"),
        ({"Runtime.deserialize_cuda_engine": None}, "MC440"),
        ({"ICudaEngine.create_execution_context": None}, "MC440"),
        ({"IExecutionContext.set_input_shape": False}, "MC441"),
        ({"IExecutionContext.infer_shapes": ["input"]}, "MC441"),
        ({"IExecutionContext.execute_async_v3": False}, "MC441"),
        ({"Builder()": TypeError("pybind11::init(): factory function returned nullptr")}, "MC611"),
    ],
    ids=lambda entry: entry if isinstance(entry, str) else next(iter(entry)),
)
def test_every_refusal_of_tensorrt_is_an_error_of_ours(
    trt: Fake, files: tuple[Path, Path], answers: dict[str, Any], code: str
) -> None:
    trt.answers |= answers

    def build_and_run() -> None:
        build_engine(*files, SHAPES, device=HostDevice())
        Engine(files[1], HostDevice())(torch.zeros(4, 3, 8, 8))

    with pytest.raises(McompError) as caught:
        build_and_run()
    assert caught.value.code == code
    assert caught.value.hint


def test_a_dynamic_input_without_a_range_is_refused(trt: Fake, files: tuple[Path, Path]) -> None:
    with pytest.raises(StageError, match="no range of shapes"):
        build_engine(*files, {}, device=HostDevice())


def test_an_engine_of_another_gpu_is_refused_before_it_is_loaded(trt: Fake, files: tuple[Path, Path]) -> None:
    build_engine(*files, SHAPES, device=HostDevice())
    other = HostDevice()
    other.name = "Other GPU sm_80"
    trt.calls.clear()
    with pytest.raises(StageError, match="was built for GPU Fake GPU sm_90, here is Other GPU sm_80"):
        Engine(files[1], other)
    assert not trt.calls
    files[1].with_name("m.plan.json").unlink()
    with pytest.raises(StageError, match="is missing beside the engine"):
        Engine(files[1], other)


def _importing(monkeypatch: pytest.MonkeyPatch, result: object, version: str | None) -> None:
    def load(name: str) -> object:
        if isinstance(result, Exception):
            raise result
        return result

    monkeypatch.setattr(tensorrt_api.importlib, "import_module", load)
    monkeypatch.setattr(tensorrt_api, "installed_version", lambda: version)


@pytest.mark.parametrize(
    ("result", "version", "message"),
    [
        (ModuleNotFoundError("No module named 'tensorrt'"), None, "TensorRT is not installed"),
        (ImportError("libnvonnxparser.so.11: cannot open"), "11.4.0", r"not importable: libnvonnxparser\.so\.11"),
        (type("Old", (), {"__version__": "8.6.1"}), "8.6.1", r"TensorRT 8\.6\.1 is too old"),
    ],
)
def test_each_way_of_missing_tensorrt_says_which(
    monkeypatch: pytest.MonkeyPatch, result: object, version: str | None, message: str
) -> None:
    _importing(monkeypatch, result, version)
    with pytest.raises(BackendMissingError, match=message) as caught:
        tensorrt_api.load_tensorrt()
    assert caught.value.exit_code == 7


def test_a_fault_of_ours_is_not_taken_for_a_missing_driver() -> None:
    def factory() -> None:
        raise TypeError("missing argument")

    with pytest.raises(TypeError):
        tensorrt_api.make(factory)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_the_device_says_so() -> None:
    with pytest.raises(BackendMissingError, match="no CUDA device"):
        TorchDevice()


def test_the_trtexec_command_names_shapes_and_limits() -> None:
    command = trtexec_command("m.onnx", "m.plan", SHAPES, 512, 4)
    assert "--minShapes=input:1x3x8x8 --optShapes=input:4x3x8x8 --maxShapes=input:8x3x8x8" in command
    assert "--stronglyTyped" in command
    assert "workspace:512" in command
    assert not re.search(r"--(int8|fp16|best|calib)", command)


@pytest.mark.gpu
def test_a_real_engine_agrees_with_the_simulation(tmp_path: Path) -> None:
    pytest.importorskip("tensorrt")
    if not torch.cuda.is_available():
        pytest.skip("no GPU")
    from mcomp.deploy import to_onnx
    from tests.unit.deploy.deploy_networks import images, quantised

    model, x = quantised(levels=127), images(8)
    lowering = to_onnx(model, (x[:2],), tmp_path / "m.onnx", "tensorrt")
    info = build_engine(lowering.path, tmp_path / "m.plan", SHAPES)
    assert info.int8_layers > 0
    found = Engine(tmp_path / "m.plan")(x).cpu()
    assert (found.argmax(1) == model(x).argmax(1)).float().mean() > 0.9
