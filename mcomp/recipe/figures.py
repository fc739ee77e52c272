"""Which metrics stand under a stage's id once it may be skipped or another stage may run in its place."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from mcomp.recipe.diagnostics import Faults, shown
from mcomp.recipe.tree import MapNode, Mark
from mcomp.stages.base import COMMON_METRICS, Stage
from mcomp.suggest import did_you_mean, listed

if TYPE_CHECKING:
    from mcomp.recipe.branches import Branches
    from mcomp.recipe.stage_validation import Checked

_LOWER_IS_BETTER = {"loss", "bytes", "params", "macs", "max_abs_error", "max_error", "violations"}


def metrics_of(cls: type[Stage]) -> list[str]:
    """Every metric that a gate on this stage may name."""
    return sorted(cls.traits.metrics | COMMON_METRICS)


def lower_is_better(metric: str) -> bool:
    """True for costs and errors."""
    costs = metric.startswith("latency") or metric.endswith(("_ms", "_bytes", "_loss"))
    return costs or metric in _LOWER_IS_BETTER


def runners(one: Checked) -> list[Checked]:
    """What may run under a stage's id: itself, and what stands in its place."""
    instead = [] if isinstance(one.otherwise, str) else [one.otherwise]
    return [one, *instead]


def check_reported(metric: tuple[str, Mark], among: Sequence[Checked], code: str, faults: Faults) -> bool:
    """True when each of the alternatives reports a metric; the reason is recorded where one does not."""
    name, mark = metric
    for runner in among:
        if runner.cls is None:
            return False
        known = metrics_of(runner.cls)
        if name in known:
            continue
        first = runner is among[0]
        which = f"stage `{runner.entry.uses}`" + ("" if first else f", which may run in place of `{runner.entry.id}`,")
        faults.error(
            code,
            f"{which} reports no metric `{shown(name)}`",
            mark,
            label=did_you_mean(name, known) if first else "",
            hint=f"it reports {listed(known, 20)}",
        )
        return False
    return True


def check_comparable(
    metric: str,
    reference: tuple[str, Mark],
    place: int,
    found: Sequence[Checked],
    branches: Branches,
    code: str,
    faults: Faults,
    *,
    compared: bool = True,
) -> None:
    """Record where an earlier stage may have no such metric: neither its own nor, when skipped, its source's.

    Args:
        metric: a name that the comparing stage knows.
        reference: the id as written, and where.
        place: of the stage with this id.
        found: every stage.
        branches: whose model each gets.
        code: of the fault.
        faults: receives it.
        compared: False where the stage is only asked for the metric.
    """
    wanted, advice = (" to compare with", "compare with") if compared else ("", "ask")
    one = found[place]
    who = f"stage `{one.entry.id}`"
    for number, runner in enumerate(runners(one)):
        ran = one.when is not False if number == 0 else one.when is not True
        if not ran or runner.cls is None or metric in metrics_of(runner.cls):
            continue
        which = f"stage `{runner.entry.uses}`, which may run in place of `{one.entry.id}`," if number else who
        stands_in = "" if one.entry.id == reference[0] else f" (its figures stand for `{reference[0]}` when skipped)"
        faults.error(
            code,
            f"{which} reports no metric `{metric}`{wanted}{stands_in}",
            reference[1],
            hint=f"it reports {listed(metrics_of(runner.cls), 20)}",
        )
        return
    if one.when is True or one.undecided or one.otherwise != "skip" or place in branches.lost:
        return
    source = branches.sources[place]
    if source is None:
        faults.error(
            code,
            f"there is no `{metric}`{wanted} when `{one.entry.id}` ({one.entry.place}) is skipped: "
            "no stage before it was measured",
            reference[1],
            hint=f"{advice} a stage that always runs, or add `otherwise: stop` to `{one.entry.id}`",
        )
        return
    check_comparable(metric, reference, source, found, branches, code, faults, compared=compared)


def warn_of_drop(item: MapNode, keys: Sequence[str], faults: Faults) -> None:
    """A drop of what is better when low is a gain: the limit would refuse an improvement."""
    metric = item.get("metric")
    name = getattr(metric, "value", None)
    if not isinstance(name, str) or not lower_is_better(name):
        return
    for key in keys:
        entry = item.entries.get(key)
        if entry is not None and isinstance(getattr(entry.value, "value", None), int | float):
            kind = key.partition("_")[0]
            faults.warning(
                "MC134",
                f"`{key}` of `{name}` limits its fall, and a lower `{name}` is better",
                entry.key,
                hint=f"to limit its growth use `max_ratio`, or `{kind}` for a fixed limit"
                if kind == "max"
                else f"to ask for growth use `min_ratio`, or `{kind}` for a fixed limit",
            )
