"""What became of every tensor: bits, range, scale, and why a layer stayed float."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from mcomp import surgery
from mcomp.quantization.calibration import quantizers, refuse_float
from mcomp.quantization.config import OFF
from mcomp.quantization.folded import FoldedLayer
from mcomp.quantization.integers import IntegerWeight
from mcomp.quantization.kept_weight import QuantizedWeight
from mcomp.quantization.layers import QuantizedLayer
from mcomp.quantization.parameter_values import quantized_parameters
from mcomp.quantization.quantizers.base import Quantizer


def describe(model: nn.Module) -> list[dict[str, Any]]:
    """The decision about every weight and every quantised activation: one JSON-able row each, in the model's order.

    Keys: ``name``, ``kind`` (``weight`` or ``activation``), ``scheme``, ``bits`` (32 for float), ``signed``, ``scale``
    (the largest one where there is one per channel), ``clip`` (largest magnitude represented), ``low`` and ``high``
    (the range of an activation), ``observer`` (what finds the range; "" where the tensor at hand does), ``readers``
    (the layers and functions that compute with it) and ``why``. :func:`decision_table` lays the rows out as text.
    """
    rows = [_weight_row(name, scheme, weight) for name, (scheme, weight) in _integers(model).items()]
    rows += [{**_EMPTY, "name": name, "readers": [name], "why": why} for name, why in float_layers(model).items()]
    rows += [
        {
            **_EMPTY,
            "name": name,
            "kind": "activation",
            "scheme": _scheme(module),
            "bits": module.bits,
            "signed": module.signed or not module.symmetric,
            **_range(module),
            "observer": "" if module.dynamic else module.calibration or "mse",
            "readers": list(readers(module) or (name.rpartition(".")[0],)),
            "why": "; ".join([f"levels {module.qmin}..{module.qmax}", *overruled(module)]),
        }
        for name, module in quantizers(model).items()
    ]
    return rows


_EMPTY: dict[str, Any] = {
    "kind": "weight",
    "scheme": "",
    "bits": OFF,
    "signed": True,
    "scale": None,
    "clip": None,
    "low": None,
    "high": None,
    "observer": "",
}


def decision_table(model: nn.Module | list[dict[str, Any]]) -> str:
    """What :func:`describe` says of a quantised model, or rows of it, as text: a line each under a line of titles.

    Raises:
        StageError: MC422, the model was never quantised.
    """
    if isinstance(model, nn.Module):
        refuse_float(model, "tell of")
    rows = describe(model) if isinstance(model, nn.Module) else model
    lines = [["tensor", "kind", "scheme", "bits", "range", "observer", "read by", "why"]]
    for row in rows:
        low, high = row["low"], row["high"]
        known = "-" if high is None else f"{low:.4g} .. {high:.4g}"
        bits = "float" if row["bits"] == OFF else str(row["bits"])
        read_by = ", ".join(row["readers"][:3]) + (", ..." if len(row["readers"]) > 3 else "")
        cells = (row["name"], row["kind"], row["scheme"], bits, known, row["observer"], read_by, row["why"])
        lines.append([cell or "-" for cell in cells])
    return text_table(lines)


def text_table(lines: list[list[str]]) -> str:
    """Rows of cells as text, every column as wide as its widest cell."""
    widths = [max(len(line[column]) for line in lines) for column in range(len(lines[0]))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in lines
    )


def conversion_route(model: nn.Module) -> tuple[str, str]:
    """How the model was seen when it was quantised, and why not more simply; both empty for a float model."""
    for entry in reversed(surgery.provenance(model).log):
        if entry["op"] == "quantize":
            return str(entry.get("route", "symbolic")), str(entry.get("why_route", ""))
    return "", ""


def quantized_layers(model: nn.Module) -> dict[str, QuantizedWeight | FoldedLayer]:
    """Whatever reads a quantised weight, folded layers included; parameters that functions read by their own name."""
    parameters = {id(module): path for path, (module, _) in quantized_parameters(model).items()}
    return {
        parameters.get(id(module), name): module
        for name, module in model.named_modules()
        if isinstance(module, (QuantizedWeight, FoldedLayer))
    }


def readers(quantizer: Quantizer) -> tuple[str, ...]:
    """What reads the tensor of a quantiser, where conversion said so."""
    return tuple(quantizer.__dict__.get("readers", ()))


def overruled(quantizer: Quantizer) -> tuple[str, ...]:
    """What readers of its tensor asked for that another reader overruled."""
    return tuple(quantizer.__dict__.get("overruled", ()))


def _integers(model: nn.Module) -> dict[str, tuple[str, IntegerWeight]]:
    """Scheme and integers of every quantised weight that is a parameter, by the name of its layer or its own."""
    found = {}
    parameters = {id(module): (path, tensor) for path, (module, tensor) in quantized_parameters(model).items()}
    for name, module in model.named_modules():
        if isinstance(module, FoldedLayer):
            found[name] = ("folded", module.integer_weight())
        elif isinstance(module, QuantizedLayer) and module.weight_quantizer.bits != OFF:
            found[name] = (_scheme(module.weight_quantizer), module.integer_weight())
        elif id(module) in parameters and isinstance(module, QuantizedWeight):
            path, tensor = parameters[id(module)]
            found[path] = (_scheme(module.weight_quantizer), module.integers_of(tensor))
    return found


def _scheme(quantizer: Quantizer) -> str:
    return quantizer.scheme or type(quantizer).__name__


def quantising_modules(model: nn.Module) -> list[str]:
    """Names of whatever quantises a weight or a tensor in ``model``; empty for a float model."""
    tensors = quantizers(model)
    return [
        name
        for name, module in model.named_modules()
        if name in tensors or isinstance(module, (QuantizedWeight, FoldedLayer))
    ]


def float_layers(model: nn.Module) -> dict[str, str]:
    """Layers that stayed float when the model was quantised, and why; empty for a float model."""
    for entry in reversed(surgery.provenance(model).log):
        if entry["op"] == "quantize":
            return dict(entry["float_layers"])
    return {}


def _range(module: Quantizer) -> dict[str, float | None]:
    if not module.ready or module.bits == OFF or module.dynamic:
        return {}
    grid = module.qparams()
    scale, zero = torch.as_tensor(grid.scale), torch.as_tensor(grid.zero_point)
    low, high = ((end - zero) * scale for end in (grid.qmin, grid.qmax))
    return {"scale": float(scale.max()), "clip": module.clip, "low": float(low.min()), "high": float(high.max())}


def _weight_row(name: str, scheme: str, weight: IntegerWeight) -> dict[str, Any]:
    values = weight.dequantize()
    return {
        **_EMPTY,
        "name": name,
        "scheme": scheme,
        "bits": weight.bits,
        "scale": float(weight.scale.max()),
        "clip": float(values.abs().max()),
        "low": float(values.min()),
        "high": float(values.max()),
        "readers": [name],
        "why": weight.why,
    }
