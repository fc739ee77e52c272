"""What a model is worth: accuracy, cost, latency, agreement between two of them.

Units: accuracy in percent, MACs of one sample, latency in milliseconds. Imported on first use: no torch here.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mcomp.metrics.accuracy import Evaluation, evaluate
    from mcomp.metrics.agreement import sqnr_db, top1_agreement
    from mcomp.metrics.cost import Cost, count, effective_macs, output_shape
    from mcomp.metrics.meter import LayerCost, Meter, measure
    from mcomp.metrics.timing import Latency, interleaved, latency, model_latency

_HOMES = {
    "Cost": "cost",
    "Evaluation": "accuracy",
    "Latency": "timing",
    "LayerCost": "meter",
    "Meter": "meter",
    "count": "cost",
    "effective_macs": "cost",
    "evaluate": "accuracy",
    "interleaved": "timing",
    "latency": "timing",
    "measure": "meter",
    "model_latency": "timing",
    "output_shape": "cost",
    "sqnr_db": "agreement",
    "top1_agreement": "agreement",
}

__all__ = [
    "Cost",
    "Evaluation",
    "Latency",
    "LayerCost",
    "Meter",
    "count",
    "effective_macs",
    "evaluate",
    "interleaved",
    "latency",
    "measure",
    "model_latency",
    "output_shape",
    "sqnr_db",
    "top1_agreement",
]


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(importlib.import_module(f"mcomp.metrics.{_HOMES[name]}"), name)
    raise AttributeError(f"module `mcomp.metrics` has no attribute `{name}`")


def __dir__() -> list[str]:
    return sorted(__all__)
