"""Write a network as one ONNX file: plain float, or Q/DQ as one target wants it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import onnx
from torch import Tensor, nn

import mcomp
from mcomp.deploy.checked_arguments import check_arguments, check_metadata, checked_path
from mcomp.deploy.float_export import DEFAULT_OPSET, export_float, input_names
from mcomp.deploy.folding import folded
from mcomp.deploy.half_precision import to_half
from mcomp.deploy.lowering import Lowering
from mcomp.deploy.marking import MarkedModel, Route, mark
from mcomp.deploy.onnx_graph import OnnxGraph
from mcomp.deploy.opsets import finish, needed_opset, wanted_opset
from mcomp.deploy.pooling import equal_pools
from mcomp.deploy.profiles import ProfileName, find_profile
from mcomp.deploy.profiles.base import Profile
from mcomp.deploy.qdq_placement import lower_markers
from mcomp.deploy.repeated_pairs import TYPED_OPSET, repeat_pairs
from mcomp.deploy.simplify import count_no_padding, fix_reshapes
from mcomp.errors import StageError, UsageError
from mcomp.quantization.modules import replace_module

Precision = Literal["fp32", "fp16"]
PRECISIONS = ("fp32", "fp16")
#: A protobuf message ends at 2 GiB.
LARGEST_FILE = 2**31 - 2**20


def to_onnx(
    model: nn.Module,
    example_inputs: Tensor | tuple[Tensor, ...],
    path: str | Path,
    profile: ProfileName = "onnxruntime",
    opset: int | None = None,
    metadata: Mapping[str, Any] | None = None,
    *,
    precision: Precision = "fp32",
    low_bit: bool = False,
) -> Lowering:
    """Write ``model`` for one target; the batch axis is dynamic.

    A batch norm that was not folded yet is folded on a copy; the model itself is not changed. Activations share one
    Q/DQ pair per tensor; weights are stored as integers with a ``DequantizeLinear`` of explicit axis. The values are
    those of the simulation wherever the target can hold them, and the returned table says where it cannot.

    Args:
        model: float, quantised (simulated) or folded.
        example_inputs: a batch that the model accepts, e.g. a tensor ``(2, 3, 32, 32)``; several inputs as a tuple.
        path: file to write; its folder must exist.
        profile: ``onnxruntime`` (uint8 activations), ``openvino``, ``tensorrt`` (symmetric int8), ``portable`` (plain
            ONNX 13), ``float`` (no Q/DQ at all); see :mod:`mcomp.deploy.profiles`.
        opset: ONNX operator set, 13 or newer. When left out the profile's own: 13 for ``portable``, else 20, and more
            where the integers need it (16 bits and INT4: 21, INT2: 25).
        metadata: written into the file beside mcomp's own; values that are no strings become JSON.
        precision: ``fp16`` writes all that is not integer in half precision, inputs and outputs excepted.
        low_bit: store weights of few bits as INT4 or INT2 where the target takes them: a smaller file that runs no
            faster, for runtimes unpack it, in ONNX Runtime to float.

    Raises:
        StageError: the network cannot be exported (MC430), is not calibrated (MC431), or the file breaks ONNX (MC433).
        UsageError: unknown profile or precision (MC432), opset too old or too new (MC442), inputs that the network does
            not take (MC429), no folder for the file (MC445), a model or metadata of another kind (MC427).
    """
    place = checked_path(path)
    check_metadata(metadata)
    inputs = check_arguments(model, example_inputs, place)
    target = find_profile(profile if isinstance(profile, str) else str(profile))
    if precision not in PRECISIONS:
        raise UsageError(f"no precision `{precision}`", code="MC432", hint=f"on offer: {', '.join(PRECISIONS)}")
    half = precision == "fp16"
    wanted = wanted_opset(opset, target, half=half)
    graph, marked = _float_graph(model, inputs, min(wanted, DEFAULT_OPSET))
    lowering = Lowering(place, profile)
    lower_markers(graph, marked, target, lowering, half=half, low_bit=low_bit)
    if target is not None and not lowering.tensors:
        lowering.notes.append("nothing of this model is quantised: the file is float throughout")
    if half:
        to_half(graph, lowering)
    needed = max(wanted, needed_opset(lowering, opset, half=half))
    if needed >= TYPED_OPSET:
        repeat_pairs(graph)
    proto = finish(graph, lowering, needed)
    _describe(proto, model, target, lowering, metadata or {})
    _drop_value_inputs(proto, input_names(inputs))
    _write(proto, lowering)
    return lowering


def _float_graph(model: nn.Module, inputs: tuple[Tensor, ...], opset: int) -> tuple[OnnxGraph, MarkedModel]:
    """The exported graph, its markers in place, with constant shapes where they are known."""
    whole = folded(model, inputs)
    pools = equal_pools(whole, inputs)

    def prepare(route: Route) -> tuple[nn.Module, MarkedModel]:
        marked = mark(whole, route)
        for name, pool in pools.items():
            replace_module(marked.model, name, pool)
        return marked.model, marked

    proto, marked = export_float(prepare, inputs, opset)
    fix_reshapes(proto)
    count_no_padding(proto)
    graph = OnnxGraph(proto)
    graph.drop_identities()
    return graph, marked


def _describe(
    proto: onnx.ModelProto, model: nn.Module, target: Profile | None, lowering: Lowering, extra: Mapping[str, Any]
) -> None:
    from mcomp import surgery

    origin = surgery.provenance(model)
    facts: dict[str, Any] = {
        "mcomp.version": mcomp.__version__,
        "mcomp.profile": lowering.profile,
        **({"mcomp.preprocessing": origin.preprocessing} if origin.preprocessing else {}),
        **({"mcomp.class_names": origin.class_names} if origin.class_names else {}),
        **({"mcomp.exact": lowering.exact} if target else {}),
        **({"mcomp.model": origin.builder} if origin.builder else {}),
        **({"mcomp.surgery": [entry["op"] for entry in origin.log]} if origin.log else {}),
        **extra,
    }
    proto.producer_name, proto.producer_version = "mcomp", mcomp.__version__
    del proto.metadata_props[:]
    for key, value in facts.items():
        proto.metadata_props.add(key=key, value=value if isinstance(value, str) else _as_json(key, value))


def _as_json(key: str, value: Any) -> str:
    try:
        return json.dumps(value)
    except (TypeError, ValueError) as error:
        raise UsageError(
            f"the metadata `{key}` cannot be written as JSON",
            code="MC427",
            why=str(error),
            hint="give text, numbers, lists and dicts of them",
        ) from None


def _drop_value_inputs(proto: onnx.ModelProto, names: list[str]) -> None:
    """Take out the inputs that stood for weights of a network beyond 2 GiB; all have become integers."""
    read = {name for node in proto.graph.node for name in node.input}
    for value in [each for each in proto.graph.input if each.name not in names]:
        if value.name in read:
            raise _too_large(f"`{value.name}` and others")
        proto.graph.input.remove(value)


def _too_large(what: str) -> StageError:
    return StageError(
        f"{what} would make the ONNX file larger than 2 GiB, which one file cannot be",
        code="MC433",
        hint="quantise more of the network, or use a smaller one",
    )


def _write(proto: onnx.ModelProto, lowering: Lowering) -> None:
    size = sum(tensor.ByteSize() for tensor in proto.graph.initializer)
    if size > LARGEST_FILE:
        raise _too_large(f"{size / 2**30:.1f} GiB of values")
    try:
        onnx.checker.check_model(proto, full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        raise StageError(
            "the lowered graph breaks the ONNX specification",
            code="MC433",
            why=str(error).strip().splitlines()[0],
            hint="this is a fault of mcomp or of the exporter: report it with the model's code",
        ) from error
    lowering.path.write_bytes(proto.SerializeToString())
    lowering.bytes = lowering.path.stat().st_size
