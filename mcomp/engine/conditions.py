"""Decide a stage's ``when``: from the machine, the run's device and the figures of earlier stages. No torch."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

from mcomp.engine.backends import Backend, backends
from mcomp.errors import StageError

if TYPE_CHECKING:
    from mcomp.recipe.conditions import When
    from mcomp.stages.base import Metrics


@dataclass(frozen=True)
class Decision:
    """Whether a condition holds, and a clause that says why.

    Attributes:
        holds: None where it depends on a figure not known yet.
        text: the reason; where nothing is decided, what will decide.
    """

    holds: bool | None
    text: str = ""


class Facts:
    """What a condition may ask of the machine and the run.

    Args:
        device: of the run, resolved: ``cpu``, ``cuda`` or ``cuda:n``.
    """

    def __init__(self, device: str) -> None:
        self.device = device

    @cached_property
    def backends(self) -> Mapping[str, Backend]:
        """The runtimes of this machine, looked up when first asked for."""
        return backends()


def decide(when: When | bool, metrics: Mapping[str, Metrics | None], facts: Facts) -> Decision:
    """Whether the stage runs.

    Args:
        when: its condition.
        metrics: what each earlier stage reported, by id; None or absent where that is not known yet.
        facts: of the machine and the run.

    Raises:
        StageError: MC502, an earlier stage has finished without the figure, or it is not a number.
    """
    if isinstance(when, bool):
        return Decision(when, "" if when else "its `when` is false")
    if when.backend is not None:
        found = facts.backends[when.backend]
        text = f"{when.backend} is present" if found.present else f"{when.backend} is absent: {found.why_absent}"
        return Decision(found.present == when.present, text)
    if when.device is not None:
        kind = facts.device.partition(":")[0]
        return Decision((kind == when.device) == when.present, f"the run computes on {facts.device}")
    return _by_figure(when, metrics)


def _by_figure(when: When, metrics: Mapping[str, Metrics | None]) -> Decision:
    assert when.stage is not None
    assert when.metric is not None
    asked = [when.stage, *([when.vs] if when.vs is not None else [])]
    unknown = [name for name in asked if metrics.get(name) is None]
    rules = [rule for rule in _rules(when) if rule.limit is not None]
    if unknown:
        return Decision(None, "if " + " and ".join(rule.question(when) for rule in rules))
    value = _figure(metrics, when.stage, when.metric)
    reference = None if when.vs is None else _figure(metrics, when.vs, when.metric)
    found = [(rule, rule.measure(value, reference)) for rule in rules]
    for rule, measured in found:
        if math.isnan(measured):
            raise _undecidable(f"a condition divides by `{when.metric}` of `{when.vs}`, which is 0", "")
        if not rule.holds(measured):
            return Decision(False, rule.answer(when, measured, "not " + rule.bound))
    return Decision(True, " and ".join(rule.answer(when, measured, rule.bound) for rule, measured in found))


@dataclass(frozen=True)
class _Rule:
    """One limit of a condition: what it measures, and on which side of the limit it holds."""

    limit: float | None
    bound: str
    measured: str  # `{metric}`, `{stage}` and `{vs}` are filled in
    measure: Callable[[float, float | None], float]
    unit: str = ""

    def holds(self, measured: float) -> bool:
        assert self.limit is not None
        # a figure is a count of images over their number: what differs in the last bit did not differ
        return measured >= self.limit - 1e-9 if self.bound == "at least" else measured <= self.limit + 1e-9

    def question(self, when: When) -> str:
        return f"{self._what(when)} is {self.bound} {self.limit:g}{self.unit}"

    def answer(self, when: When, measured: float, bound: str) -> str:
        return f"{self._what(when)} is {measured:.6g}{self.unit}, {bound} {self.limit:g}"

    def _what(self, when: When) -> str:
        return self.measured.format(metric=when.metric, stage=when.stage, vs=when.vs)


def _rules(when: When) -> list[_Rule]:
    value, drop = "{metric} of `{stage}`", "the drop of {metric} from `{vs}` to `{stage}`"
    ratio = "{metric} of `{stage}` over that of `{vs}`"
    percent = when.unit == "percent"
    unit, fall = (" percent", _percent) if percent else (" points", _points)
    return [
        _Rule(when.min, "at least", value, _itself),
        _Rule(when.max, "at most", value, _itself),
        _Rule(when.min_drop, "at least", drop, fall, unit),
        _Rule(when.max_drop, "at most", drop, fall, unit),
        _Rule(when.min_ratio, "at least", ratio, _ratio),
        _Rule(when.max_ratio, "at most", ratio, _ratio),
    ]


def _itself(value: float, _reference: float | None) -> float:
    return value


def _points(value: float, reference: float | None) -> float:
    assert reference is not None
    return reference - value


def _percent(value: float, reference: float | None) -> float:
    assert reference is not None
    return 100.0 * (reference - value) / abs(reference) if reference else math.nan


def _ratio(value: float, reference: float | None) -> float:
    assert reference is not None
    return value / reference if reference else math.nan


def _figure(metrics: Mapping[str, Metrics | None], stage: str, name: str) -> float:
    reported = metrics[stage] or {}
    value = reported.get(name)
    if isinstance(value, bool) or not isinstance(value, int | float):  # the store writes NaN as a text
        what = f"is {value}" if value is not None else "was not reported"
        raise _undecidable(f"a condition asks for `{name}` of `{stage}`, which {what}", ", ".join(sorted(reported)))
    if math.isnan(value):
        raise _undecidable(f"a condition asks for `{name}` of `{stage}`, which is not a number", "")
    return float(value)


def _undecidable(message: str, reported: str) -> StageError:
    hint = f"it reported: {reported}" if reported else "ask for a figure that this stage always reports"
    return StageError(message, code="MC502", hint=hint)
