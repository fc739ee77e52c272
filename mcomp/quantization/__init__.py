"""Quantise, calibrate and fold ordinary networks.

``quantize`` puts fake quantisers into a copy of a model, ``calibrate`` finds their ranges,
``fold_batch_norms`` turns the trained result into integers with one scale per channel.
Importing this package costs no torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from mcomp.quantization import replays as _replays  # noqa: F401  registers how artifacts repeat this surgery

if TYPE_CHECKING:
    from mcomp.quantization.calibration import calibrate, freeze
    from mcomp.quantization.conversion import quantize
    from mcomp.quantization.fold import FoldResult, fold_batch_norms
    from mcomp.quantization.folded import FoldedQuantConv1d, FoldedQuantConv2d, FoldedQuantLinear
    from mcomp.quantization.integers import IntegerWeight, QParams
    from mcomp.quantization.layers import QuantConv1d, QuantConv2d, QuantLinear
    from mcomp.quantization.observers import FloatHistogram
    from mcomp.quantization.quantizers.activation import ActivationQuantizer
    from mcomp.quantization.quantizers.base import Quantizer
    from mcomp.quantization.quantizers.weight import WeightQuantizer
    from mcomp.quantization.summary import describe

_HOMES = {
    "ActivationQuantizer": "quantizers.activation",
    "FloatHistogram": "observers",
    "FoldResult": "fold",
    "FoldedQuantConv1d": "folded",
    "FoldedQuantConv2d": "folded",
    "FoldedQuantLinear": "folded",
    "IntegerWeight": "integers",
    "QParams": "integers",
    "QuantConv1d": "layers",
    "QuantConv2d": "layers",
    "QuantLinear": "layers",
    "Quantizer": "quantizers.base",
    "WeightQuantizer": "quantizers.weight",
    "calibrate": "calibration",
    "describe": "summary",
    "fold_batch_norms": "fold",
    "freeze": "calibration",
    "quantize": "conversion",
}

__all__ = [
    "ActivationQuantizer",
    "FloatHistogram",
    "FoldResult",
    "FoldedQuantConv1d",
    "FoldedQuantConv2d",
    "FoldedQuantLinear",
    "IntegerWeight",
    "QParams",
    "QuantConv1d",
    "QuantConv2d",
    "QuantLinear",
    "Quantizer",
    "WeightQuantizer",
    "calibrate",
    "describe",
    "fold_batch_norms",
    "freeze",
    "quantize",
]


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(importlib.import_module(f"mcomp.quantization.{_HOMES[name]}"), name)
    raise AttributeError(f"module `mcomp.quantization` has no attribute `{name}`")


def __dir__() -> list[str]:
    return sorted(__all__)
