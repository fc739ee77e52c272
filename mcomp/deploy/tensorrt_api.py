"""The part of TensorRT's Python API that mcomp uses, valid on 10.x and 11.x alike, and whether it is here.

TensorRT publishes no types. These protocols are held against recorded name tables of real wheels by a test, and so is
:data:`USED_API`: what 11 removed (calibrators, builder flags for precision, dynamic ranges) must not be used at all.
"""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from importlib import metadata
from typing import Any, Protocol, cast

from mcomp.errors import BackendMissingError

#: Attribute paths below the module that this package touches, `-` where a part is optional.
USED_API = (
    "Builder", "Builder.build_serialized_network", "Builder.create_builder_config", "Builder.create_network",
    "Builder.create_optimization_profile",
    "DataType.BF16", "DataType.BOOL", "DataType.FLOAT", "DataType.HALF", "DataType.INT32", "DataType.INT64",
    "DataType.INT8", "DataType.UINT8",
    "EngineInspector.get_engine_information",
    "IBuilderConfig.add_optimization_profile", "IBuilderConfig.builder_optimization_level",
    "IBuilderConfig.create_timing_cache", "IBuilderConfig.get_timing_cache", "IBuilderConfig.profiling_verbosity",
    "IBuilderConfig.set_memory_pool_limit", "IBuilderConfig.set_timing_cache",
    "ICudaEngine.create_engine_inspector", "ICudaEngine.create_execution_context", "ICudaEngine.get_tensor_dtype",
    "ICudaEngine.get_tensor_mode", "ICudaEngine.get_tensor_name", "ICudaEngine.num_io_tensors",
    "IExecutionContext.execute_async_v3", "IExecutionContext.get_tensor_shape", "IExecutionContext.infer_shapes",
    "IExecutionContext.set_input_shape", "IExecutionContext.set_tensor_address",
    "INetworkDefinition.get_input", "INetworkDefinition.num_inputs",
    "IOptimizationProfile.set_shape",
    "ITensor.name", "ITensor.shape",
    "ITimingCache.serialize",
    "LayerInformationFormat.JSON",
    "Logger", "Logger.WARNING",
    "MemoryPoolType.WORKSPACE",
    "NetworkDefinitionCreationFlag.STRONGLY_TYPED",
    "OnnxParser", "OnnxParser.get_error", "OnnxParser.num_errors", "OnnxParser.parse",
    "ParserError.desc", "ParserError.node_name", "ParserError.node_operator",
    "ProfilingVerbosity.DETAILED",
    "Runtime", "Runtime.deserialize_cuda_engine",
    "TensorIOMode.INPUT",
)  # fmt: skip

_PACKAGES = ("tensorrt", "tensorrt_cu13", "tensorrt_cu12", "tensorrt_cu13_bindings", "tensorrt_cu12_bindings")
OLDEST_MAJOR = 10


class TimingCache(Protocol):
    """Measured kernel times, reusable by the next build."""

    def serialize(self) -> Any:
        """A buffer."""


class OptimizationProfile(Protocol):
    """The range of shapes an engine takes."""

    def set_shape(self, input: str, min: Sequence[int], opt: Sequence[int], max: Sequence[int]) -> None:
        """For one input."""


class BuilderConfig(Protocol):
    """How to build."""

    builder_optimization_level: int
    profiling_verbosity: Any

    def set_memory_pool_limit(self, pool: Any, pool_size: int) -> None:
        """In bytes."""

    def create_timing_cache(self, serialized_timing_cache: bytes) -> TimingCache:
        """Empty bytes make a new one."""

    def set_timing_cache(self, cache: TimingCache, ignore_mismatch: bool) -> bool:
        """Both arguments are required."""

    def get_timing_cache(self) -> TimingCache:
        """As it is after the build."""

    def add_optimization_profile(self, profile: OptimizationProfile) -> int:
        """Its index, negative if it is refused."""


class Network(Protocol):
    """A parsed network."""

    num_inputs: int

    def get_input(self, index: int) -> Any:
        """A tensor with ``name`` and ``shape``, -1 where it is dynamic."""


class Builder(Protocol):
    """Makes engines."""

    def create_network(self, flags: int) -> Network:
        """An empty network."""

    def create_builder_config(self) -> BuilderConfig:
        """With defaults."""

    def create_optimization_profile(self) -> OptimizationProfile:
        """An empty one."""

    def build_serialized_network(self, network: Network, config: BuilderConfig) -> Any:
        """A buffer, or None when the build failed."""


class ExecutionContext(Protocol):
    """One run at a time."""

    def set_input_shape(self, name: str, shape: Sequence[int]) -> bool:
        """False outside the profile."""

    def infer_shapes(self) -> list[str]:
        """Names of inputs that are still missing."""

    def get_tensor_shape(self, name: str) -> Sequence[int]:
        """Known once all inputs are."""

    def set_tensor_address(self, name: str, memory: int) -> bool:
        """A device pointer."""

    def execute_async_v3(self, stream_handle: int) -> bool:
        """False if it was not enqueued."""


class CudaEngine(Protocol):
    """A deserialised plan."""

    num_io_tensors: int

    def get_tensor_name(self, index: int) -> str:
        """Inputs and outputs, mixed."""

    def get_tensor_mode(self, name: str) -> Any:
        """Input or output."""

    def get_tensor_dtype(self, name: str) -> Any:
        """A ``DataType``."""

    def create_execution_context(self) -> ExecutionContext | None:
        """None without memory."""

    def create_engine_inspector(self) -> Any:
        """Tells what the layers became."""


class TensorRT(Protocol):
    """The module."""

    Builder: Any
    DataType: Any
    LayerInformationFormat: Any
    Logger: Any
    MemoryPoolType: Any
    NetworkDefinitionCreationFlag: Any
    OnnxParser: Any
    ProfilingVerbosity: Any
    Runtime: Any
    TensorIOMode: Any


def installed_version() -> str | None:
    """TensorRT's version by package metadata, without importing it; None if absent."""
    for package in _PACKAGES:
        try:
            return metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return None


def load_tensorrt() -> TensorRT:
    """Import TensorRT.

    Raises:
        BackendMissingError: MC611, it is not installed, its libraries are missing, or it is older than 10.
    """
    version = installed_version()
    try:
        module = importlib.import_module("tensorrt")
    except ImportError as error:
        if version is None:
            raise _missing(
                "TensorRT is not installed", "pip install 'mcomp[trt]' on a machine with an NVIDIA GPU"
            ) from None
        raise _missing(
            f"TensorRT {version} is installed but not importable: {error}",
            "install the matching `tensorrt` libraries, not the bindings alone",
        ) from error
    found = str(getattr(module, "__version__", version or "0"))
    if int(found.split(".")[0]) < OLDEST_MAJOR:
        raise _missing(
            f"TensorRT {found} is too old: strongly typed Q/DQ networks need {OLDEST_MAJOR} or newer",
            "pip install 'tensorrt>=10'",
        )
    return cast(TensorRT, module)


def make(factory: Any, *arguments: Any) -> Any:
    """Call a TensorRT factory; without a driver the bindings raise ``TypeError``.

    Raises:
        BackendMissingError: MC611, no driver or no GPU.
    """
    try:
        return factory(*arguments)
    except TypeError as error:
        if "nullptr" not in str(error):
            raise
        raise _missing(
            f"TensorRT is importable, but no NVIDIA driver answers ({error})",
            "run this on a machine with an NVIDIA GPU",
        ) from error


def _missing(message: str, hint: str) -> BackendMissingError:
    return BackendMissingError(message, code="MC611", hint=hint)
