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
    from mcomp.quantization.adaround import adaptive_rounding
    from mcomp.quantization.attention import QuantAttention, QuantMultiheadAttention
    from mcomp.quantization.bias_correction import correct_bias
    from mcomp.quantization.bn_statistics import reestimate_batch_norms
    from mcomp.quantization.calibration import calibrate, freeze
    from mcomp.quantization.conversion import quantize
    from mcomp.quantization.equalization import equalize
    from mcomp.quantization.fold import FoldResult, fold_batch_norms
    from mcomp.quantization.folded import (
        FoldedQuantConv1d,
        FoldedQuantConv2d,
        FoldedQuantConv3d,
        FoldedQuantConvTranspose1d,
        FoldedQuantConvTranspose2d,
        FoldedQuantConvTranspose3d,
        FoldedQuantLinear,
    )
    from mcomp.quantization.integers import IntegerWeight, QParams
    from mcomp.quantization.kept_weight import QuantizedParameter
    from mcomp.quantization.layer_measurements import LayerReport, layer_report
    from mcomp.quantization.layer_sensitivity import Sensitivity, sensitivity
    from mcomp.quantization.layers import (
        QuantBilinear,
        QuantConv1d,
        QuantConv2d,
        QuantConv3d,
        QuantConvTranspose1d,
        QuantConvTranspose2d,
        QuantConvTranspose3d,
        QuantEmbedding,
        QuantEmbeddingBag,
        QuantLinear,
    )
    from mcomp.quantization.observers import FloatHistogram
    from mcomp.quantization.override_file import read_overrides
    from mcomp.quantization.quantized_functions import (
        QuantGELU,
        QuantHardsigmoid,
        QuantHardswish,
        QuantIdentity,
        QuantLeakyReLU,
        QuantPReLU,
        QuantReLU,
        QuantReLU6,
        QuantSigmoid,
        QuantSiLU,
        QuantTanh,
    )
    from mcomp.quantization.quantizers.activation import ActivationQuantizer
    from mcomp.quantization.quantizers.base import Quantizer
    from mcomp.quantization.quantizers.weight import WeightQuantizer
    from mcomp.quantization.recurrent import QuantGRU, QuantGRUCell, QuantLSTM, QuantLSTMCell, QuantRNN, QuantRNNCell
    from mcomp.quantization.restoration import is_quantized, restore_float
    from mcomp.quantization.summary import conversion_route, decision_table, describe

_HOMES = {
    "ActivationQuantizer": "quantizers.activation",
    "FloatHistogram": "observers",
    "FoldResult": "fold",
    "FoldedQuantConv1d": "folded",
    "FoldedQuantConv2d": "folded",
    "FoldedQuantConv3d": "folded",
    "FoldedQuantConvTranspose1d": "folded",
    "FoldedQuantConvTranspose2d": "folded",
    "FoldedQuantConvTranspose3d": "folded",
    "FoldedQuantLinear": "folded",
    "IntegerWeight": "integers",
    "LayerReport": "layer_measurements",
    "QParams": "integers",
    "QuantAttention": "attention",
    "QuantBilinear": "layers",
    "QuantConv1d": "layers",
    "QuantConv2d": "layers",
    "QuantConv3d": "layers",
    "QuantConvTranspose1d": "layers",
    "QuantConvTranspose2d": "layers",
    "QuantConvTranspose3d": "layers",
    "QuantEmbedding": "layers",
    "QuantEmbeddingBag": "layers",
    "QuantGELU": "quantized_functions",
    "QuantGRU": "recurrent",
    "QuantGRUCell": "recurrent",
    "QuantHardsigmoid": "quantized_functions",
    "QuantHardswish": "quantized_functions",
    "QuantIdentity": "quantized_functions",
    "QuantLSTM": "recurrent",
    "QuantLSTMCell": "recurrent",
    "QuantLeakyReLU": "quantized_functions",
    "QuantLinear": "layers",
    "QuantMultiheadAttention": "attention",
    "QuantPReLU": "quantized_functions",
    "QuantRNN": "recurrent",
    "QuantRNNCell": "recurrent",
    "QuantReLU": "quantized_functions",
    "QuantReLU6": "quantized_functions",
    "QuantSiLU": "quantized_functions",
    "QuantSigmoid": "quantized_functions",
    "QuantTanh": "quantized_functions",
    "QuantizedParameter": "kept_weight",
    "Quantizer": "quantizers.base",
    "Sensitivity": "layer_sensitivity",
    "WeightQuantizer": "quantizers.weight",
    "adaptive_rounding": "adaround",
    "calibrate": "calibration",
    "conversion_route": "summary",
    "correct_bias": "bias_correction",
    "decision_table": "summary",
    "describe": "summary",
    "equalize": "equalization",
    "fold_batch_norms": "fold",
    "freeze": "calibration",
    "is_quantized": "restoration",
    "layer_report": "layer_measurements",
    "quantize": "conversion",
    "read_overrides": "override_file",
    "reestimate_batch_norms": "bn_statistics",
    "restore_float": "restoration",
    "sensitivity": "layer_sensitivity",
}

__all__ = [
    "ActivationQuantizer",
    "FloatHistogram",
    "FoldResult",
    "FoldedQuantConv1d",
    "FoldedQuantConv2d",
    "FoldedQuantConv3d",
    "FoldedQuantConvTranspose1d",
    "FoldedQuantConvTranspose2d",
    "FoldedQuantConvTranspose3d",
    "FoldedQuantLinear",
    "IntegerWeight",
    "LayerReport",
    "QParams",
    "QuantAttention",
    "QuantBilinear",
    "QuantConv1d",
    "QuantConv2d",
    "QuantConv3d",
    "QuantConvTranspose1d",
    "QuantConvTranspose2d",
    "QuantConvTranspose3d",
    "QuantEmbedding",
    "QuantEmbeddingBag",
    "QuantGELU",
    "QuantGRU",
    "QuantGRUCell",
    "QuantHardsigmoid",
    "QuantHardswish",
    "QuantIdentity",
    "QuantLSTM",
    "QuantLSTMCell",
    "QuantLeakyReLU",
    "QuantLinear",
    "QuantMultiheadAttention",
    "QuantPReLU",
    "QuantRNN",
    "QuantRNNCell",
    "QuantReLU",
    "QuantReLU6",
    "QuantSiLU",
    "QuantSigmoid",
    "QuantTanh",
    "QuantizedParameter",
    "Quantizer",
    "Sensitivity",
    "WeightQuantizer",
    "adaptive_rounding",
    "calibrate",
    "conversion_route",
    "correct_bias",
    "decision_table",
    "describe",
    "equalize",
    "fold_batch_norms",
    "freeze",
    "is_quantized",
    "layer_report",
    "quantize",
    "read_overrides",
    "reestimate_batch_norms",
    "restore_float",
    "sensitivity",
]


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(importlib.import_module(f"mcomp.quantization.{_HOMES[name]}"), name)
    raise AttributeError(f"module `mcomp.quantization` has no attribute `{name}`")


def __dir__() -> list[str]:
    return sorted(__all__)
