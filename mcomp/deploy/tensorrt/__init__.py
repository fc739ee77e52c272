"""Engines of NVIDIA's TensorRT, 10.x and 11.x: built from a strongly typed ONNX file, checked, and called with tensors.

The file's own types are the law: no precision flag and no calibrator is involved (TensorRT 11 has neither). The calls
follow NVIDIA's documentation and are tested against recorded name tables and a recording fake only: no engine was
ever built with this code (``verified_on: none``).
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mcomp.deploy.tensorrt.build import build_engine
    from mcomp.deploy.tensorrt.engine import Engine
    from mcomp.deploy.tensorrt.info import EngineInfo
    from mcomp.deploy.tensorrt.shapes import ShapeRange, shape_ranges
    from mcomp.deploy.tensorrt.trtexec import trtexec_command

_HOMES = {
    "Engine": "engine",
    "EngineInfo": "info",
    "ShapeRange": "shapes",
    "build_engine": "build",
    "shape_ranges": "shapes",
    "trtexec_command": "trtexec",
}

__all__ = [
    "Engine",
    "EngineInfo",
    "ShapeRange",
    "build_engine",
    "shape_ranges",
    "trtexec_command",
]


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(importlib.import_module(f"mcomp.deploy.tensorrt.{_HOMES[name]}"), name)
    raise AttributeError(f"module `mcomp.deploy.tensorrt` has no attribute `{name}`")


def __dir__() -> list[str]:
    return sorted(__all__)
