"""The types of TensorRT's Python API that mcomp uses, the same in 10.x and 11.x.

TensorRT publishes none. A test holds the names against recorded tables of real wheels.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol


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
        """A device pointer; False if it is refused."""

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

    def get_tensor_shape(self, name: str) -> Sequence[int]:
        """As declared, -1 where it is dynamic."""

    def create_execution_context(self) -> ExecutionContext | None:
        """None without memory."""

    def create_engine_inspector(self) -> Any:
        """Tells what the layers became."""


class TensorRT(Protocol):
    """The module."""

    Builder: Any
    DataType: Any
    ILogger: Any
    LayerInformationFormat: Any
    MemoryPoolType: Any
    NetworkDefinitionCreationFlag: Any
    OnnxParser: Any
    ProfilingVerbosity: Any
    Runtime: Any
    TensorIOMode: Any
