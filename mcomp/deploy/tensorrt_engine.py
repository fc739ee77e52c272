"""Build and run a TensorRT engine from a Q/DQ file, on 10.x and 11.x.

The network is strongly typed: the file's own types are the law, so no precision flag and no calibrator is involved
(TensorRT 11 has neither). The call sequence follows NVIDIA's documentation and is tested against recorded name tables
and a recording fake only: no engine has been built with it yet (``verified_on: none``).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from mcomp.deploy.tensorrt_api import (
    Builder,
    BuilderConfig,
    CudaEngine,
    ExecutionContext,
    Network,
    TensorRT,
    load_tensorrt,
    make,
)
from mcomp.errors import BackendMissingError, StageError

VERIFIED_ON = "none"
_DTYPES = {
    "FLOAT": torch.float32, "HALF": torch.float16, "BF16": torch.bfloat16, "INT8": torch.int8, "UINT8": torch.uint8,
    "INT32": torch.int32, "INT64": torch.int64, "BOOL": torch.bool,
}  # fmt: skip


@dataclass(frozen=True)
class ShapeRange:
    """The smallest, the best served and the largest shape of one input, batch included."""

    min: list[int]
    opt: list[int]
    max: list[int]


@dataclass(frozen=True)
class EngineInfo:
    """What a plan is valid for, kept beside it as ``<plan>.json``.

    Attributes:
        tensorrt: version that built it; no other one loads it.
        gpu: name and compute capability.
        onnx_sha256: of the file it was built from.
        shapes: input to its range.
        optimization_level: of the builder.
        layers: in the engine; 0 if the inspector does not say.
        int8_layers: of them, those with INT8 inputs or outputs.
        verified_on: where this code was ever run for real.
    """

    tensorrt: str
    gpu: str
    onnx_sha256: str
    shapes: dict[str, dict[str, list[int]]]
    optimization_level: int
    layers: int = 0
    int8_layers: int = 0
    verified_on: str = VERIFIED_ON


class Device(Protocol):
    """Where an engine's buffers live; tests put them elsewhere."""

    name: str
    stream: int

    def empty(self, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
        """An uninitialised buffer."""

    def hold(self, tensor: Tensor, dtype: torch.dtype) -> Tensor:
        """The tensor on the device, contiguous and of this type."""

    def synchronise(self) -> None:
        """Wait for the stream."""


class TorchDevice:
    """The current CUDA device, buffers and a stream of its own by torch: no second context.

    Raises:
        BackendMissingError: MC611, torch sees no GPU.
    """

    def __init__(self) -> None:
        if not torch.cuda.is_available():
            raise BackendMissingError(
                "no CUDA device answers to torch", code="MC611", hint="run this on a machine with an NVIDIA GPU"
            )
        properties = torch.cuda.get_device_properties(torch.cuda.current_device())
        self.name = f"{properties.name} sm_{properties.major}{properties.minor}"
        make_stream: Any = torch.cuda.Stream
        self._stream = make_stream()  # TensorRT synchronises too often on the default one
        self.stream: int = self._stream.cuda_stream

    def empty(self, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
        """On the device."""
        return torch.empty(shape, dtype=dtype, device="cuda")

    def hold(self, tensor: Tensor, dtype: torch.dtype) -> Tensor:
        """Copied only where it has to be; the engine's stream waits for the copy."""
        held = tensor.to("cuda", dtype).contiguous()
        self._stream.wait_stream(torch.cuda.current_stream())
        return held

    def synchronise(self) -> None:
        """Wait for the engine's stream."""
        self._stream.synchronize()


def build_engine(
    onnx_path: Path,
    plan_path: Path,
    shapes: Mapping[str, ShapeRange],
    *,
    workspace_mb: int = 1024,
    optimization_level: int = 3,
    timing_cache: Path | None = None,
    device: Device | None = None,
) -> EngineInfo:
    """Build ``plan_path`` (and ``<plan>.json``) from a Q/DQ file of the ``tensorrt`` profile.

    Args:
        onnx_path: the file.
        plan_path: where the engine goes.
        shapes: a range for every input with a dynamic dimension.
        workspace_mb: memory that kernels may use, in MiB.
        optimization_level: 0 (fast build) to 5 (fast engine).
        timing_cache: read if it exists, written afterwards.
        device: where it is built; torch's current CUDA device by default.

    Raises:
        BackendMissingError: TensorRT, its libraries, a driver or a GPU is missing (MC611).
        StageError: the file does not parse (MC437), a shape range is missing or refused (MC438), or the build failed
            (MC439).
    """
    trt = load_tensorrt()
    device = device or TorchDevice()
    logger = make(trt.Logger, trt.Logger.WARNING)
    builder: Builder = make(trt.Builder, logger)
    network = _parse(trt, builder, logger, onnx_path)
    config = builder.create_builder_config()
    config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, workspace_mb * 2**20)
    config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED  # so that the inspector names each layer's types
    config.builder_optimization_level = optimization_level
    known = timing_cache.read_bytes() if timing_cache is not None and timing_cache.exists() else b""
    config.set_timing_cache(config.create_timing_cache(known), False)
    _add_profile(builder, network, config, shapes)
    plan = builder.build_serialized_network(network, config)
    if plan is None:
        raise StageError(
            f"TensorRT could not build an engine from `{onnx_path.name}`",
            code="MC439",
            why="the builder returned nothing; its log above names the layer",
            hint=f"raise `workspace_mb` (now {workspace_mb}), or try the written trtexec command with --verbose",
        )
    plan_path.write_bytes(bytes(plan))
    if timing_cache is not None:
        timing_cache.write_bytes(bytes(config.get_timing_cache().serialize()))
    engine: CudaEngine | None = make(trt.Runtime, logger).deserialize_cuda_engine(bytes(plan))
    layers, int8_layers = _inspect(trt, engine) if engine is not None else (0, 0)
    info = EngineInfo(
        tensorrt=_version(trt),
        gpu=device.name,
        onnx_sha256=hashlib.sha256(onnx_path.read_bytes()).hexdigest(),
        shapes={name: asdict(shape) for name, shape in shapes.items()},
        optimization_level=optimization_level,
        layers=layers,
        int8_layers=int8_layers,
    )
    _info_path(plan_path).write_text(json.dumps(asdict(info), indent=1))
    return info


def _parse(trt: TensorRT, builder: Builder, logger: Any, onnx_path: Path) -> Network:
    flag = getattr(trt.NetworkDefinitionCreationFlag, "STRONGLY_TYPED", None)
    network = builder.create_network(1 << int(flag) if flag is not None else 0)  # its number differs by version
    parser = make(trt.OnnxParser, network, logger)
    if not parser.parse(onnx_path.read_bytes()):
        errors = [parser.get_error(index) for index in range(parser.num_errors)]
        raise StageError(
            f"TensorRT refuses `{onnx_path.name}`: {len(errors)} errors",
            code="MC437",
            why="; ".join(f"{error.node_operator()} `{error.node_name()}`: {error.desc()}" for error in errors[:3]),
            hint="run `mcomp.deploy.check_qdq` on the file",
        )
    return network


def _add_profile(builder: Builder, network: Network, config: BuilderConfig, shapes: Mapping[str, ShapeRange]) -> None:
    inputs = [network.get_input(index) for index in range(network.num_inputs)]
    dynamic = [tensor.name for tensor in inputs if any(size == -1 for size in tensor.shape)]
    missing = [name for name in dynamic if name not in shapes]
    if missing:
        raise StageError(
            f"input `{missing[0]}` has a dynamic dimension and no range of shapes",
            code="MC438",
            hint="give `min`, `opt` and `max` for it",
        )
    if not dynamic:
        return
    profile = builder.create_optimization_profile()
    for name in dynamic:
        profile.set_shape(name, shapes[name].min, shapes[name].opt, shapes[name].max)
    if config.add_optimization_profile(profile) < 0:
        raise StageError(
            f"TensorRT refuses the shape ranges of {', '.join(dynamic)}",
            code="MC438",
            why=", ".join(f"{name}: {shapes[name]}" for name in dynamic),
            hint="order them min <= opt <= max, with the network's own channels and sizes",
        )


def _inspect(trt: TensorRT, engine: CudaEngine) -> tuple[int, int]:
    """Layers, and those of them with INT8 inputs or outputs, by the engine's own account."""
    text = engine.create_engine_inspector().get_engine_information(trt.LayerInformationFormat.JSON)
    try:
        layers = json.loads(text).get("Layers", [])
    except (json.JSONDecodeError, AttributeError):
        return 0, 0  # a layout that is not known yet: the share is unknown, the engine is none the worse
    return len(layers), sum(_reads_or_writes_int8(layer) for layer in layers)


def _reads_or_writes_int8(layer: Any) -> bool:
    if not isinstance(layer, dict):
        return False  # a bare name: the plan was built without detailed profiling
    tensors = [*layer.get("Inputs", []), *layer.get("Outputs", [])]
    return any("int8" in str(tensor.get("Format/Datatype", "")).lower() for tensor in tensors)


class Engine:
    """An engine to call with tensors: ``engine(images)`` gives the outputs on the device.

    Args:
        plan_path: as written by :func:`build_engine`, with its ``.json`` beside it.
        device: torch's current CUDA device by default.

    Raises:
        BackendMissingError: TensorRT or a GPU is missing (MC611).
        StageError: the plan belongs to another TensorRT or GPU, or is damaged (MC440).
    """

    def __init__(self, plan_path: Path, device: Device | None = None) -> None:
        trt = load_tensorrt()
        self._device = device or TorchDevice()
        _check_home(plan_path, trt, self._device)
        self._runtime = make(trt.Runtime, make(trt.Logger, trt.Logger.WARNING))  # must outlive the engine
        engine: CudaEngine | None = self._runtime.deserialize_cuda_engine(plan_path.read_bytes())
        context: ExecutionContext | None = engine.create_execution_context() if engine is not None else None
        if engine is None or context is None:
            what = "cannot be read" if engine is None else "has no memory to run in"
            raise StageError(f"engine `{plan_path.name}` {what}", code="MC440", hint="build it again on this machine")
        self._engine, self._context = engine, context
        names = [engine.get_tensor_name(index) for index in range(engine.num_io_tensors)]
        self.inputs = [name for name in names if engine.get_tensor_mode(name) == trt.TensorIOMode.INPUT]
        self.outputs = [name for name in names if name not in self.inputs]
        types = {getattr(trt.DataType, name): dtype for name, dtype in _DTYPES.items()}
        self._dtypes = {name: types[engine.get_tensor_dtype(name)] for name in names}

    def __call__(self, *tensors: Tensor) -> Tensor:
        """The first output for one batch within the engine's range of shapes.

        Raises:
            StageError: a shape is outside the range, or the launch failed (MC441).
        """
        context = self._context
        held = {}
        for name, tensor in zip(self.inputs, tensors, strict=True):
            held[name] = self._device.hold(tensor, self._dtypes[name])
            if not context.set_input_shape(name, tuple(tensor.shape)):
                raise StageError(
                    f"the engine takes no `{name}` of shape {tuple(tensor.shape)}",
                    code="MC441",
                    hint="stay within the engine's min and max shapes, or build it with others",
                )
        missing = context.infer_shapes()
        if missing:
            raise StageError(f"the engine still waits for {', '.join(missing)}", code="MC441", hint="give all inputs")
        for name in self.outputs:
            held[name] = self._device.empty(tuple(context.get_tensor_shape(name)), self._dtypes[name])
        for name, tensor in held.items():
            context.set_tensor_address(name, tensor.data_ptr())
        if not context.execute_async_v3(self._device.stream):
            raise StageError("TensorRT could not start the engine", code="MC441", hint="its log above says why")
        self._device.synchronise()  # buffers must live until here
        return held[self.outputs[0]]


def _check_home(plan_path: Path, trt: TensorRT, device: Device) -> None:
    path = _info_path(plan_path)
    if not path.exists():
        raise StageError(
            f"`{path.name}` is missing beside the engine", code="MC440", hint="build the engine again with mcomp"
        )
    info = json.loads(path.read_text())
    for what, built, here in (("TensorRT", info["tensorrt"], _version(trt)), ("GPU", info["gpu"], device.name)):
        if built != here:
            raise StageError(
                f"engine `{plan_path.name}` was built for {what} {built}, here is {here}",
                code="MC440",
                hint="build it again on this machine: an engine is valid for one TensorRT version and GPU",
            )


def _version(trt: TensorRT) -> str:
    return str(getattr(trt, "__version__", "unknown"))


def _info_path(plan_path: Path) -> Path:
    return plan_path.with_name(f"{plan_path.name}.json")


def trtexec_command(
    onnx_name: str, plan_name: str, shapes: Mapping[str, ShapeRange], workspace_mb: int, optimization_level: int
) -> str:
    """The command that builds the same engine by hand, in the folder of the ONNX file."""
    ranges = []
    for kind in ("min", "opt", "max"):
        sizes = {name: "x".join(map(str, getattr(shape, kind))) for name, shape in shapes.items()}
        ranges.append(f"--{kind}Shapes={','.join(f'{name}:{size}' for name, size in sizes.items())}")
    return " ".join(
        [
            "trtexec",
            f"--onnx={onnx_name}",
            "--stronglyTyped",  # 11 is always so, and takes the flag
            f"--saveEngine={plan_name}",
            *ranges,
            f"--memPoolSize=workspace:{workspace_mb}",
            f"--builderOptimizationLevel={optimization_level}",
            "--timingCacheFile=timing.cache",
            "--profilingVerbosity=detailed",
            "--exportLayerInfo=layers.json",
        ]
    )
