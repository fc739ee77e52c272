"""TensorRT's Python API as mcomp uses it, valid on 10.x and 11.x alike, and whether it is here.

:data:`USED_API` is held against recorded name tables of real wheels by a test: what 11 removed (calibrators, builder
flags for precision, dynamic ranges) must not be used at all.
"""

from __future__ import annotations

import importlib
from importlib import metadata
from importlib.util import find_spec
from typing import Any, cast

from mcomp.deploy.tensorrt.protocols import TensorRT
from mcomp.errors import BackendMissingError

#: Attribute paths below the module that this package touches.
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
    "ICudaEngine.get_tensor_mode", "ICudaEngine.get_tensor_name", "ICudaEngine.get_tensor_shape",
    "ICudaEngine.num_io_tensors",
    "IExecutionContext.execute_async_v3", "IExecutionContext.get_tensor_shape", "IExecutionContext.infer_shapes",
    "IExecutionContext.set_input_shape", "IExecutionContext.set_tensor_address",
    "INetworkDefinition.get_input", "INetworkDefinition.num_inputs",
    "IOptimizationProfile.set_shape",
    "ILogger", "ILogger.ERROR", "ILogger.INTERNAL_ERROR", "ILogger.WARNING", "ILogger.log",
    "ITensor.name", "ITensor.shape",
    "ITimingCache.serialize",
    "LayerInformationFormat.JSON",
    "MemoryPoolType.WORKSPACE",
    "NetworkDefinitionCreationFlag.STRONGLY_TYPED",
    "OnnxParser", "OnnxParser.get_error", "OnnxParser.num_errors", "OnnxParser.parse_from_file",
    "ParserError.desc", "ParserError.node_name", "ParserError.node_operator",
    "ProfilingVerbosity.DETAILED",
    "Runtime", "Runtime.deserialize_cuda_engine",
    "TensorIOMode.INPUT",
)  # fmt: skip

_PACKAGES = ("tensorrt", "tensorrt_cu13", "tensorrt_cu12", "tensorrt_cu13_bindings", "tensorrt_cu12_bindings")
OLDEST_MAJOR = 10


def installed_version() -> str | None:
    """TensorRT's version by package metadata, without importing it; None if absent."""
    for package in _PACKAGES:
        try:
            return metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return None


def absent_engine(buffers: str = "torch") -> str:
    """What building and running an engine needs and is not here, in words; empty where all is. Nothing is imported.

    Args:
        buffers: whose buffers the engine runs on, ``torch`` or ``pycuda``.
    """
    from mcomp.training.hardware import gpu

    version = installed_version()
    if not version:
        return "TensorRT is not installed"
    if _too_old(version):
        return f"TensorRT {version} is too old"
    if buffers == "pycuda" and find_spec("pycuda") is None:
        return "pycuda is not installed"
    return "" if gpu() else "no NVIDIA GPU answers"


def load_tensorrt() -> TensorRT:
    """Import TensorRT.

    Raises:
        BackendMissingError: MC611, it is not installed, its libraries are missing, or it is older than 10.
    """
    version = installed_version()
    if version and _too_old(version):
        raise _outdated(version)
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
    found = version_of(cast(TensorRT, module))
    if _too_old(found):  # the system's own may hide the one that pip knows
        raise _outdated(found)
    return cast(TensorRT, module)


def version_of(trt: TensorRT) -> str:
    """Of the module itself, e.g. ``11.4.0.106``."""
    return str(getattr(trt, "__version__", "0"))


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


def _too_old(version: str) -> bool:
    return int(version.split(".")[0]) < OLDEST_MAJOR


def _outdated(version: str) -> BackendMissingError:
    return _missing(
        f"TensorRT {version} is too old: strongly typed networks need {OLDEST_MAJOR} or newer",
        f"pip install 'tensorrt>={OLDEST_MAJOR}'",
    )


def _missing(message: str, hint: str) -> BackendMissingError:
    return BackendMissingError(message, code="MC611", hint=hint)
