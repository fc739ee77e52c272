"""Write a network as one ONNX file: plain float, or Q/DQ as one target wants it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import onnx
from onnx import version_converter
from torch import Tensor, nn

import mcomp
from mcomp.deploy.float_export import DEFAULT_OPSET, export_float
from mcomp.deploy.folding import folded
from mcomp.deploy.half_precision import HALF_OPSET, to_half
from mcomp.deploy.low_bit import FORMATS, OPSETS
from mcomp.deploy.lowering import Lowering
from mcomp.deploy.marking import DOMAIN, MarkedModel, Route, mark
from mcomp.deploy.onnx_graph import OnnxGraph
from mcomp.deploy.pooling import equal_pools
from mcomp.deploy.profiles import ProfileName, find_profile
from mcomp.deploy.profiles.base import Profile
from mcomp.deploy.qdq_placement import lower_markers
from mcomp.deploy.simplify import count_no_padding, fix_reshapes
from mcomp.errors import StageError, UsageError
from mcomp.quantization.modules import replace_module

#: Per-channel Q/DQ exists since 13, 16-bit Q/DQ since 21.
OLDEST_OPSET, SIXTEEN_BIT_OPSET = 13, 21
#: The newest file format that every ONNX Runtime since 1.18 and TensorRT 10 read.
NEWEST_IR = 10
Precision = Literal["fp32", "fp16"]
#: A protobuf message ends at 2 GiB.
LARGEST_FILE = 2**31 - 2**20


def to_onnx(
    model: nn.Module,
    example_inputs: tuple[Tensor, ...],
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
        example_inputs: a batch that the model accepts, e.g. ``(tensor of shape (2, 3, 32, 32),)``.
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
        UsageError: unknown profile (MC432), opset too old (MC442).
    """
    target = find_profile(profile)
    half = precision == "fp16"
    if opset is not None and opset < OLDEST_OPSET:
        raise UsageError(
            f"opset {opset} has no per-channel Q/DQ",
            code="MC442",
            hint=f"leave `opset` out, or give {OLDEST_OPSET} or more",
        )
    whole = folded(model, example_inputs)
    pools = equal_pools(whole, example_inputs)

    def prepare(route: Route) -> tuple[nn.Module, MarkedModel]:
        marked = mark(whole, route)
        for name, pool in pools.items():
            replace_module(marked.model, name, pool)
        return marked.model, marked

    usual = target.opset if target is not None else DEFAULT_OPSET
    wanted = opset or max(usual, HALF_OPSET if half else 0)
    proto, marked = export_float(prepare, example_inputs, min(wanted, DEFAULT_OPSET))
    fix_reshapes(proto)
    count_no_padding(proto)
    graph = OnnxGraph(proto)
    graph.drop_identities()
    lowering = Lowering(Path(path), profile)
    lower_markers(graph, marked, target, lowering, half=half, low_bit=low_bit)
    if half:
        to_half(graph, lowering)
    proto = _finish(graph, lowering, max(wanted, _needed_opset(lowering, half, opset)))
    _describe(proto, model, target, lowering, metadata or {})
    _write(proto, lowering)
    return lowering


def _needed_opset(lowering: Lowering, half: bool, asked: int | None) -> int:
    """The oldest opset that has all that the table holds.

    Raises:
        UsageError: MC442, an older one was asked for.
    """
    kinds = {tensor.dtype for tensor in lowering.tensors}
    needs = {f"{kind.upper()} weights": opset for kind, opset in OPSETS.items() if kind in kinds}
    if kinds & {"int16", "uint16"}:
        needs["16-bit Q/DQ"] = SIXTEEN_BIT_OPSET
    if half and kinds:
        needs["half-precision Q/DQ"] = HALF_OPSET
    what = max(needs, key=lambda name: needs[name], default="")
    if asked is not None and what and asked < needs[what]:
        raise UsageError(
            f"opset {asked} has no {what}, which this model needs",
            code="MC442",
            hint=f"leave `opset` out, or give {needs[what]} or more",
        )
    return needs.get(what, 0)


def _finish(graph: OnnxGraph, lowering: Lowering, opset: int) -> onnx.ModelProto:
    proto = graph.finish()
    for entry in list(proto.opset_import):
        if entry.domain == DOMAIN:
            proto.opset_import.remove(entry)
    found = next(entry.version for entry in proto.opset_import if entry.domain == "")
    if opset > found:
        # the converter refuses types that the older opset has not: from 19 to 21 operators only gained types
        proto = _raise_opset(proto, min(opset, SIXTEEN_BIT_OPSET)) if found >= HALF_OPSET else proto
        proto = _converted(proto, opset)
    formats = [FORMATS[row.dtype] for row in lowering.tensors if row.dtype in FORMATS]
    proto.ir_version = max([min(proto.ir_version, NEWEST_IR), *formats])
    return proto


def _converted(proto: onnx.ModelProto, opset: int) -> onnx.ModelProto:
    newest = onnx.defs.onnx_opset_version()
    if opset > newest:
        raise UsageError(
            f"opset {opset} is newer than what onnx {onnx.__version__} knows",
            code="MC442",
            hint=f"leave `opset` out, or give {newest} at most",
        )
    if all(entry.version == opset for entry in proto.opset_import if entry.domain == ""):
        return proto
    try:
        converted: onnx.ModelProto = version_converter.convert_version(proto, opset)
    except (RuntimeError, ValueError) as error:
        raise UsageError(
            f"the graph cannot be converted to opset {opset}",
            code="MC442",
            why=str(error).strip().splitlines()[0],
            hint="leave `opset` out",
        ) from error
    return converted


def _raise_opset(proto: onnx.ModelProto, opset: int) -> onnx.ModelProto:
    for entry in proto.opset_import:
        if entry.domain == "":
            entry.version = opset
    return proto


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
        proto.metadata_props.add(key=key, value=value if isinstance(value, str) else json.dumps(value))


def _write(proto: onnx.ModelProto, lowering: Lowering) -> None:
    size = sum(tensor.ByteSize() for tensor in proto.graph.initializer)
    if size > LARGEST_FILE:
        raise StageError(
            f"the ONNX file would take {size / 2**30:.1f} GiB; one file holds less than 2 GiB",
            code="MC433",
            hint="quantise more of the network, or use a smaller one",
        )
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
