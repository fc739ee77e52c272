"""Hold the figures of a stage against the limits the recipe gives."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING

from mcomp.engine.results import GateOutcome
from mcomp.errors import StageError

if TYPE_CHECKING:
    from mcomp.recipe.gates import Gate

Metrics = Mapping[str, float | int | str]


def check_gate(gate: Gate, stage_id: str, metrics: Mapping[str, Metrics]) -> list[GateOutcome]:
    """One outcome per rule of the gate.

    Args:
        gate: the limits.
        stage_id: the stage they stand on.
        metrics: every finished stage's metrics by id.

    Raises:
        StageError: the metric was not reported, so the gate cannot be answered.
    """
    value = _number(metrics, stage_id, gate.metric)
    outcomes = []
    if gate.min is not None:
        outcomes.append(GateOutcome(gate.metric, "min", gate.min, value, value >= gate.min))
    if gate.max is not None:
        outcomes.append(GateOutcome(gate.metric, "max", gate.max, value, value <= gate.max))
    if gate.vs is None:
        return outcomes
    reference = _number(metrics, gate.vs, gate.metric)
    if gate.max_drop is not None:
        drop = reference - value
        if gate.unit == "percent":
            drop = 100.0 * drop / abs(reference) if reference else math.nan
        unit = gate.unit or "points"
        # a figure is a count of images over their number: what differs in the last bit did not differ
        passed = drop <= gate.max_drop + 1e-9
        outcomes.append(GateOutcome(gate.metric, "max_drop", gate.max_drop, drop, passed, gate.vs, unit))
    if gate.max_ratio is not None:
        ratio = value / reference if reference else math.nan
        outcomes.append(GateOutcome(gate.metric, "max_ratio", gate.max_ratio, ratio, ratio <= gate.max_ratio, gate.vs))
    return outcomes


def _number(metrics: Mapping[str, Metrics], stage_id: str, name: str) -> float:
    value = metrics.get(stage_id, {}).get(name)
    if value in ("nan", "inf", "-inf"):  # as the store writes them; a comparison with NaN holds for no limit
        return float(value)
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise StageError(
            f"a gate asks for `{name}` of `{stage_id}`, which reported no such figure",
            code="MC501",
            hint=f"`{stage_id}` reported: {', '.join(sorted(metrics.get(stage_id, {}))) or 'nothing'}",
        )
    return float(value)
