"""One training loop for baseline, sparse, fine-tuning and quantisation-aware runs."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mcomp.training.hardware import gpu, resolve_device, resolve_precision, threads
    from mcomp.training.loop import FitResult, fit
    from mcomp.training.penalty import Penalty
    from mcomp.training.schedule import learning_rate
    from mcomp.training.settings import TrainSettings

_HOMES = {
    "FitResult": "loop",
    "Penalty": "penalty",
    "TrainSettings": "settings",
    "fit": "loop",
    "gpu": "hardware",
    "learning_rate": "schedule",
    "resolve_device": "hardware",
    "resolve_precision": "hardware",
    "threads": "hardware",
}

__all__ = [
    "FitResult",
    "Penalty",
    "TrainSettings",
    "fit",
    "gpu",
    "learning_rate",
    "resolve_device",
    "resolve_precision",
    "threads",
]


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(importlib.import_module(f"mcomp.training.{_HOMES[name]}"), name)
    raise AttributeError(f"module `mcomp.training` has no attribute `{name}`")


def __dir__() -> list[str]:
    return sorted(__all__)
