"""A TensorRT made of the recorded names: anything else is an AttributeError, and calls are recorded in order."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from mcomp.deploy.tensorrt.devices import Buffer

TABLE: dict[str, Any] = json.loads((Path(__file__).parents[3] / "data" / "trt_api.json").read_text())
LAYERS = {"Layers": [{"Name": "int8", "Outputs": [{"Format/Datatype": "Int8 NC/32HW32"}]}, "bare"]}
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
VALUES = {"num_inputs", "num_io_tensors", "num_errors", "shape"}


class Fake:
    """The module, one version of it.

    Attributes:
        calls: what was called or set, in order.
        given: path to the arguments of each call.
        answers: path to what a call returns, or raises.
        inputs: name to declared shape.
        outputs: name to shape.
        types: name to the name of its ``DataType``; FLOAT if it is not there.
    """

    def __init__(self, version: str) -> None:
        self.known = TABLE[version]
        self.calls: list[str] = []
        self.given: dict[str, list[tuple[Any, ...]]] = {}
        self.inputs: dict[str, tuple[int, ...]] = {"input": (-1, 3, 8, 8)}
        self.outputs: dict[str, tuple[int, ...]] = {"output": (4, 10)}
        self.types: dict[str, str] = {}
        self.loggers: list[Any] = []
        self.answers: dict[str, Any] = {
            "OnnxParser.parse_from_file": True,
            "OnnxParser.num_errors": 1,
            "Builder.build_serialized_network": b"plan",
            "IBuilderConfig.add_optimization_profile": 0,
            "IBuilderConfig.set_timing_cache": True,
            "ITimingCache.serialize": b"cache",
            "EngineInspector.get_engine_information": json.dumps(LAYERS),
            "IExecutionContext.set_input_shape": True,
            "IExecutionContext.set_tensor_address": True,
            "IExecutionContext.infer_shapes": [],
            "IExecutionContext.execute_async_v3": True,
            "NetworkDefinitionCreationFlag.STRONGLY_TYPED": 1 if version.startswith("10") else 0,
        }
        self.__version__ = self.known["wheel_version"]

    def __getattr__(self, name: str) -> Any:
        if name not in self.known["top_level"] and name not in self.known["classes"]:
            raise AttributeError(name)
        return self._logger_class() if name == "ILogger" else FakeClass(self, name)

    def says(self, message: str) -> None:
        """Tell every logger of an error, as TensorRT does before it returns None or False."""
        for logger in self.loggers:
            logger.log("ILogger.ERROR", message)

    def _logger_class(self) -> type:
        fake = self

        class ILogger:
            INTERNAL_ERROR, ERROR, WARNING = "ILogger.INTERNAL_ERROR", "ILogger.ERROR", "ILogger.WARNING"

            def __init__(self) -> None:
                fake.loggers.append(self)

        return ILogger

    def _one(self, path: str, arguments: tuple[Any, ...]) -> Any:
        names = [*self.inputs, *self.outputs]
        tables = {
            "ICudaEngine.get_tensor_name": lambda index: names[index],
            "ICudaEngine.get_tensor_mode": lambda name: "TensorIOMode." + "OUTPUT" * (name in self.outputs)
            + "INPUT" * (name in self.inputs),
            "ICudaEngine.get_tensor_dtype": lambda name: f"DataType.{self.types.get(name, 'FLOAT')}",
            "ICudaEngine.get_tensor_shape": lambda name: {**self.inputs, **self.outputs}[name],
            "IExecutionContext.get_tensor_shape": lambda name: self.outputs[name],
        }  # fmt: skip
        if path in tables:
            return tables[path](*arguments)
        if path == "INetworkDefinition.get_input":
            return FakeClass(self, "ITensor", list(self.inputs)[arguments[0]])
        answer = self.answers.get(path, FakeClass(self, RETURNS[path]) if path in RETURNS else f"<{path}>")
        if isinstance(answer, Exception):
            raise answer
        return answer


class FakeClass:
    """A class, an enum or an instance of either."""

    def __init__(self, fake: Fake, kind: str, called: str = "") -> None:
        self.__dict__.update(_fake=fake, _kind=kind, _called=called)

    def __call__(self, *arguments: Any) -> FakeClass:
        if f"{self._kind}()" in self._fake.answers:
            raise self._fake.answers[f"{self._kind}()"]
        self._fake.calls.append(self._kind)
        return self

    def __setattr__(self, member: str, value: Any) -> None:
        assert member in self._fake.known["classes"][self._kind]
        self._fake.calls.append(f"{self._kind}.{member}=")

    def __getattr__(self, member: str) -> Any:
        if member.startswith("_"):  # what Python and pytest ask any object for
            raise AttributeError(member)
        fake, path = self._fake, f"{self._kind}.{member}"
        known = fake.known["classes"]
        if self._kind in known and member not in known[self._kind]:
            raise AttributeError(path)
        if self._kind == "ITensor":
            return {"name": self._called, "shape": fake.inputs[self._called]}[member]
        if member in VALUES:
            counts = {"num_inputs": len(fake.inputs), "num_io_tensors": len(fake.inputs) + len(fake.outputs)}
            return counts[member] if member in counts else fake.answers[path]
        if member[0].isupper():
            return fake.answers.get(path, path)

        def call(*arguments: Any) -> Any:
            fake.calls.append(path)
            fake.given.setdefault(path, []).append(arguments)
            return fake._one(path, arguments)

        return call


class NoPycuda:
    """A finder that makes pycuda absent, be it installed or not."""

    @staticmethod
    def find_spec(name: str, *_: object) -> None:
        if name.partition(".")[0] == "pycuda":
            raise ModuleNotFoundError("No module named 'pycuda'", name="pycuda")


def without_pycuda(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.partition(".")[0] == "pycuda"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setattr(sys, "meta_path", [NoPycuda, *sys.meta_path])


class HostDevice:
    """Buffers in main memory, in the place of a GPU."""

    def __init__(self, name: str = "Fake GPU sm_90") -> None:
        self.name = name
        self.events: list[str] = []
        self.held: list[Tensor] = []
        self.depth = 0

    @contextmanager
    def current(self) -> Iterator[None]:
        self.depth += 1
        try:
            yield
        finally:
            self.depth -= 1

    def put(self, tensor: Tensor, dtype: torch.dtype) -> Buffer:
        held = tensor.to(dtype).contiguous()
        self.held.append(held)
        return Buffer(held.data_ptr(), held)

    def room(self, shape: tuple[int, ...], dtype: torch.dtype) -> Buffer:
        tensor = torch.zeros(shape, dtype=dtype)
        return Buffer(tensor.data_ptr(), tensor)

    def ready_stream(self) -> int:
        self.events.append("stream")
        return 7

    def fetch(self, buffer: Buffer) -> Tensor:
        self.events.append("fetch")
        return buffer.tensor

    def synchronise(self) -> None:
        self.events.append("synchronise")

    def close(self) -> None:
        self.events.append("close")
