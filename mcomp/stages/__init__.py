"""Stages as plain functions: ``mcomp.stages.prune(model, data=…, ratio=0.4, regular=8) -> StageResult``.

Every registered stage is here under its name, options as keyword arguments; :func:`register` adds one.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from mcomp.stages.base import (
    Finding,
    Stage,
    StageContext,
    StageOptions,
    StageResult,
    Surroundings,
    Traits,
)
from mcomp.stages.forecast import Forecast, Work
from mcomp.stages.registry import get, names, register

__all__ = [
    "Finding",
    "Forecast",
    "Stage",
    "StageContext",
    "StageOptions",
    "StageResult",
    "Surroundings",
    "Traits",
    "Work",
    "get",
    "names",
    "register",
]


def __getattr__(name: str) -> Callable[..., StageResult]:
    if name.startswith("_"):
        raise AttributeError(name)
    try:
        stage = get(name)
    except KeyError:
        raise AttributeError(f"no stage `{name}`; mcomp.stages.names() lists them") from None
    from mcomp.stages.function import as_function

    return as_function(stage)


def __dir__() -> list[Any]:
    return sorted({*__all__, *names()})
