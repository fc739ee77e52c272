"""Which opset a file is written in: the profile's, the one that was asked for, or more where the integers need it."""

from __future__ import annotations

import onnx
from onnx import version_converter

from mcomp.deploy.float_export import DEFAULT_OPSET
from mcomp.deploy.half_precision import HALF_OPSET
from mcomp.deploy.low_bit import FORMATS, OPSETS
from mcomp.deploy.lowering import Lowering
from mcomp.deploy.marking import DOMAIN
from mcomp.deploy.onnx_graph import OnnxGraph
from mcomp.deploy.profiles.base import Profile
from mcomp.errors import UsageError

#: Per-channel Q/DQ exists since 13, 16-bit Q/DQ since 21.
OLDEST_OPSET, SIXTEEN_BIT_OPSET = 13, 21
#: The newest file format that every ONNX Runtime since 1.18 and TensorRT 10 read.
NEWEST_IR = 10


def wanted_opset(asked: int | None, target: Profile | None, *, half: bool) -> int:
    """The opset to start from.

    Raises:
        UsageError: MC442, the one that was asked for has no per-channel Q/DQ, or is no number.
    """
    if asked is None:
        usual = target.opset if target is not None else DEFAULT_OPSET
        return max(usual, HALF_OPSET if half else 0)
    if isinstance(asked, bool) or not isinstance(asked, int):
        raise UsageError(
            f"`opset` is {asked!r}, a `{type(asked).__name__}`",
            code="MC442",
            hint=f"give a whole number, {OLDEST_OPSET} or more, or leave it out",
        )
    if asked < OLDEST_OPSET:
        raise UsageError(
            f"opset {asked} has no per-channel Q/DQ",
            code="MC442",
            hint=f"leave `opset` out, or give {OLDEST_OPSET} or more",
        )
    return asked


def needed_opset(lowering: Lowering, asked: int | None, *, half: bool) -> int:
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


def finish(graph: OnnxGraph, lowering: Lowering, opset: int) -> onnx.ModelProto:
    """The model of an edited graph in that opset, and in the oldest file format that goes with it.

    Raises:
        UsageError: MC442, the installed onnx does not know the opset, or cannot convert to it.
    """
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
