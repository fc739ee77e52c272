"""From a quantised network to the integers that ship: ONNX Q/DQ files, their rules, and the runtimes that run them.

One lowering per target, because one graph does not serve all: the placement that TensorRT wants runs slower than
float in ONNX Runtime, and the other way round is refused by TensorRT's parser.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mcomp.deploy.formats.export import Exported, export
    from mcomp.deploy.lowering import Lowering, TensorLowering
    from mcomp.deploy.onnx_session import OnnxSession
    from mcomp.deploy.onnx_writer import to_onnx
    from mcomp.deploy.packed.packing import PackedTensor, Packing, pack
    from mcomp.deploy.packed.unpacking import Unpacked, unpack
    from mcomp.deploy.qdq.check import check_qdq
    from mcomp.deploy.qdq.rules import Violation
    from mcomp.deploy.tensorrt import Engine, ShapeRange, build_engine
    from mcomp.deploy.verification import Verification, verify

_HOMES = {
    "Engine": "mcomp.deploy.tensorrt",
    "Exported": "mcomp.deploy.formats.export",
    "Lowering": "mcomp.deploy.lowering",
    "OnnxSession": "mcomp.deploy.onnx_session",
    "PackedTensor": "mcomp.deploy.packed.packing",
    "Packing": "mcomp.deploy.packed.packing",
    "ShapeRange": "mcomp.deploy.tensorrt",
    "TensorLowering": "mcomp.deploy.lowering",
    "Unpacked": "mcomp.deploy.packed.unpacking",
    "Verification": "mcomp.deploy.verification",
    "Violation": "mcomp.deploy.qdq.rules",
    "build_engine": "mcomp.deploy.tensorrt",
    "check_qdq": "mcomp.deploy.qdq.check",
    "export": "mcomp.deploy.formats.export",
    "pack": "mcomp.deploy.packed.packing",
    "to_onnx": "mcomp.deploy.onnx_writer",
    "unpack": "mcomp.deploy.packed.unpacking",
    "verify": "mcomp.deploy.verification",
}

__all__ = [
    "Engine",
    "Exported",
    "Lowering",
    "OnnxSession",
    "PackedTensor",
    "Packing",
    "ShapeRange",
    "TensorLowering",
    "Unpacked",
    "Verification",
    "Violation",
    "build_engine",
    "check_qdq",
    "export",
    "pack",
    "to_onnx",
    "unpack",
    "verify",
]


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(importlib.import_module(_HOMES[name]), name)
    if name in ("tensorrt", "xnor"):
        return importlib.import_module(f"mcomp.deploy.{name}")
    raise AttributeError(f"module `mcomp.deploy` has no attribute `{name}`")


def __dir__() -> list[str]:
    return sorted(__all__)
