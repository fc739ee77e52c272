"""What became of every tensor: bits, range, scale, and why a layer stayed float."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from mcomp import surgery
from mcomp.quantization.calibration import quantizers
from mcomp.quantization.config import OFF
from mcomp.quantization.folded import FoldedLayer
from mcomp.quantization.layers import QuantizedLayer
from mcomp.quantization.quantizers.base import Quantizer


def describe(model: nn.Module) -> list[dict[str, Any]]:
    """One JSON-able row per weight and per quantised activation, in the model's order.

    Keys: ``name``, ``kind`` (``weight`` or ``activation``), ``bits`` (32 for float), ``signed``, ``scale`` (the largest
    one where there is one per channel), ``clip`` (largest magnitude represented) and ``why``.
    """
    rows = [_weight_row(name, layer) for name, layer in quantized_layers(model).items()]
    rows += [
        {"name": name, "kind": "weight", "bits": 32, "signed": True, "scale": None, "clip": None, "why": why}
        for name, why in float_layers(model).items()
    ]
    rows += [
        {
            "name": name,
            "kind": "activation",
            "bits": module.bits,
            "signed": module.signed,
            **_range(module),
            "why": f"levels {module.qmin}..{module.qmax}",
        }
        for name, module in quantizers(model).items()
    ]
    return rows


def quantized_layers(model: nn.Module) -> dict[str, QuantizedLayer | FoldedLayer]:
    """Layers with quantised weights by name, folded ones included."""
    return {name: module for name, module in model.named_modules() if isinstance(module, (QuantizedLayer, FoldedLayer))}


def quantising_modules(model: nn.Module) -> list[str]:
    """Names of whatever quantises a weight or a tensor in ``model``; empty for a float model."""
    tensors = quantizers(model)
    return [
        name
        for name, module in model.named_modules()
        if name in tensors or callable(getattr(module, "integer_weight", None))
    ]


def float_layers(model: nn.Module) -> dict[str, str]:
    """Layers that stayed float when the model was quantised, and why; empty for a float model."""
    for entry in reversed(surgery.provenance(model).log):
        if entry["op"] == "quantize":
            return dict(entry["float_layers"])
    return {}


def _range(module: Quantizer) -> dict[str, float | None]:
    if not module.ready or module.bits == OFF or module.dynamic:
        return {"scale": None, "clip": None}
    return {"scale": float(torch.as_tensor(module.qparams().scale).max()), "clip": module.clip}


def _weight_row(name: str, layer: QuantizedLayer | FoldedLayer) -> dict[str, Any]:
    weight = layer.integer_weight()
    largest = float(weight.scale.max())
    clip = float(weight.dequantize().abs().max())
    return {
        "name": name,
        "kind": "weight",
        "bits": layer.bits if isinstance(layer, FoldedLayer) else layer.weight_quantizer.bits,
        "signed": True,
        "scale": largest,
        "clip": clip,
        "why": weight.why,
    }
