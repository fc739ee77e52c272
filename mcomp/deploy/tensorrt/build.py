"""Build an engine from an ONNX file, on TensorRT 10.x and 11.x: what the file's types say is what is built."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path

from mcomp.deploy.checked_arguments import checked_path
from mcomp.deploy.tensorrt import timing_cache as times
from mcomp.deploy.tensorrt.api import load_tensorrt, make, version_of
from mcomp.deploy.tensorrt.devices import Device, TorchDevice
from mcomp.deploy.tensorrt.info import EngineInfo, count_layers, sha256_of
from mcomp.deploy.tensorrt.messages import Messages
from mcomp.deploy.tensorrt.protocols import Builder, BuilderConfig, CudaEngine, Network, TensorRT
from mcomp.deploy.tensorrt.shapes import FREE, ShapeRange
from mcomp.errors import StageError


def build_engine(
    onnx_path: str | Path,
    plan_path: str | Path,
    shapes: Mapping[str, ShapeRange],
    *,
    workspace_mb: int = 1024,
    optimization_level: int = 3,
    timing_cache: Path | None = None,
    device: Device | None = None,
) -> EngineInfo:
    """Build ``plan_path`` (and ``<plan>.json``) from a strongly typed ONNX file, e.g. of the ``tensorrt`` profile.

    Args:
        onnx_path: the file.
        plan_path: where the engine goes.
        shapes: a range for every input with a free dimension, see :func:`mcomp.deploy.tensorrt.shape_ranges`.
        workspace_mb: memory that kernels may use, in MiB.
        optimization_level: 0 (fast build) to 5 (fast engine).
        timing_cache: read if it exists, written afterwards; by default a file for this TensorRT and GPU below the
            person's cache folder.
        device: where it is built; torch's current CUDA device by default.

    Raises:
        UsageError: a path is none (MC445).
        BackendMissingError: TensorRT, its libraries, a driver or a GPU is missing (MC611).
        StageError: the file does not parse (MC437), a shape range is missing or refused (MC438), or the build failed
            (MC439).
    """
    onnx_path, plan_path = checked_path(onnx_path, "the ONNX file"), checked_path(plan_path, "the engine")
    trt = load_tensorrt()
    device = device or TorchDevice()
    messages = Messages(trt)
    with device.current():
        builder: Builder = make(trt.Builder, messages.logger)
        network = _parse(trt, builder, messages, onnx_path)
        config = builder.create_builder_config()
        config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, workspace_mb * 2**20)
        config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED  # so that the inspector names each layer's types
        config.builder_optimization_level = optimization_level
        known = timing_cache or times.usual_place(version_of(trt), device.name)
        notes = [times.attach(config, known)]
        _add_profile(builder, network, config, shapes, messages)
        made = builder.build_serialized_network(network, config)
        if made is None:
            raise StageError(
                f"TensorRT could not build an engine from `{onnx_path.name}`",
                code="MC439",
                why=messages.why("the builder returned nothing and said nothing"),
                hint=f"raise `workspace_mb` (now {workspace_mb}), or try the written trtexec command with --verbose",
            )
        plan = bytes(made)
        plan_path.write_bytes(plan)
        notes.append(times.store(config, known))
        engine: CudaEngine | None = make(trt.Runtime, messages.logger).deserialize_cuda_engine(plan)
        layers, int8_layers = count_layers(trt, engine) if engine is not None else (0, 0)
    info = EngineInfo(
        tensorrt=version_of(trt),
        gpu=device.name,
        onnx_sha256=sha256_of(onnx_path.read_bytes()),
        plan_sha256=sha256_of(plan),
        plan_bytes=len(plan),
        shapes={name: asdict(shape) for name, shape in shapes.items()},
        optimization_level=optimization_level,
        layers=layers,
        int8_layers=int8_layers,
        notes=[note for note in notes if note],
    )
    info.write(plan_path)
    return info


def _parse(trt: TensorRT, builder: Builder, messages: Messages, onnx_path: Path) -> Network:
    if not onnx_path.is_file():
        raise StageError(f"no file `{onnx_path}`", code="MC437", hint="write it with `mcomp.deploy.to_onnx` first")
    flag = getattr(trt.NetworkDefinitionCreationFlag, "STRONGLY_TYPED", None)
    network = builder.create_network(1 << int(flag) if flag is not None else 0)  # its number differs by version
    parser = make(trt.OnnxParser, network, messages.logger)
    if not parser.parse_from_file(str(onnx_path)):  # not from memory: weights may lie beside the file
        errors = [parser.get_error(index) for index in range(parser.num_errors)]
        raise StageError(
            f"TensorRT refuses `{onnx_path.name}`: {len(errors)} errors",
            code="MC437",
            why="; ".join(f"{error.node_operator()} `{error.node_name()}`: {error.desc()}" for error in errors[:3])
            or messages.why(),
            hint="run `mcomp.deploy.check_qdq` on the file",
        )
    return network


def _add_profile(
    builder: Builder, network: Network, config: BuilderConfig, shapes: Mapping[str, ShapeRange], messages: Messages
) -> None:
    inputs = [network.get_input(index) for index in range(network.num_inputs)]
    declared = {tensor.name: tuple(tensor.shape) for tensor in inputs}
    dynamic = [name for name, dims in declared.items() if FREE in dims]
    known = "its inputs: " + ", ".join(f"`{name}` {list(dims)}" for name, dims in declared.items())
    for name in shapes:
        if name not in declared:
            raise StageError(f"a range is given for `{name}`, which is no input", code="MC438", hint=known)
    for name in dynamic:
        if name not in shapes:
            raise StageError(
                f"input `{name}` has a dynamic dimension and no range of shapes",
                code="MC438",
                hint=f"give `min`, `opt` and `max` for it; {known}",
            )
    if not dynamic:
        return
    profile = builder.create_optimization_profile()
    why = ""
    try:
        for name in dynamic:
            profile.set_shape(name, shapes[name].min, shapes[name].opt, shapes[name].max)
    except ValueError as error:
        why = str(error)
    if why or config.add_optimization_profile(profile) < 0:
        raise StageError(
            f"TensorRT refuses the shape ranges of {', '.join(dynamic)}",
            code="MC438",
            why=why or messages.why(", ".join(f"{name}: {shapes[name]}" for name in dynamic)),
            hint=f"keep the sizes that the file fixes; {known}",
        )
