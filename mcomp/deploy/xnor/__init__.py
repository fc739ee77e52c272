"""Binary networks by XNOR and popcount on the CPU, after Rastegari et al., "XNOR-Net" (arXiv:1603.05279).

A product of signs is the XNOR of two bits, so a sum of products is a count of bits: one instruction of AVX-512 does 512
of them. The loops are C++ (AVX-512 with VPOPCNTDQ, AVX2, or neither, chosen at run time) and compiled on the first use.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mcomp.deploy.xnor.acceleration import Acceleration, LayerRow, accelerate
    from mcomp.deploy.xnor.extension import available_paths, build
    from mcomp.deploy.xnor.layers import XnorConv1d, XnorConv2d, XnorLinear

_HOMES = {
    "Acceleration": "acceleration",
    "LayerRow": "acceleration",
    "XnorConv1d": "layers",
    "XnorConv2d": "layers",
    "XnorLinear": "layers",
    "accelerate": "acceleration",
    "available_paths": "extension",
    "build": "extension",
}

__all__ = [
    "Acceleration",
    "LayerRow",
    "XnorConv1d",
    "XnorConv2d",
    "XnorLinear",
    "accelerate",
    "available_paths",
    "build",
]


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(importlib.import_module(f"mcomp.deploy.xnor.{_HOMES[name]}"), name)
    raise AttributeError(f"module `mcomp.deploy.xnor` has no attribute `{name}`")


def __dir__() -> list[str]:
    return sorted(__all__)
