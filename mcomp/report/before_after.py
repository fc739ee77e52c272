"""What a run came to: the network that went in beside the one that came out, figure by figure."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mcomp.engine.display import escaped
from mcomp.engine.lineage import ends, way_to
from mcomp.engine.units import count_text, latency_text, size_text, top1_text

Outcome = dict[str, Any]
Details = Mapping[str, Mapping[str, Any]]

_FIGURES: dict[str, tuple[str, Callable[[Mapping[str, Any]], str]]] = {
    "params": ("parameters", lambda metrics: count_text(metrics.get("params"))),
    "macs": ("multiply-accumulates", lambda metrics: count_text(metrics.get("macs"))),
    "bytes": ("bytes on disk", lambda metrics: size_text(metrics)),
    "top1": ("top-1 accuracy", lambda metrics: f"{top1_text(metrics.get('top1'))} %"),
    "latency_ms": ("latency", lambda metrics: latency_text(dict(metrics))),
}

#: Stages that hand on the network in the size in which they got it: what they measure is how it was before.
_LEAVE_WHOLE = ("train", "sparse_train", "finetune", "evaluate")
_LEGEND = (
    '<p class="legend">Before is the network as the last stage left it that took nothing away, trained longest; '
    "after is the last stage that measured the figure. Each names its stage.</p>"
)
#: A latency compares with another one only where these agree.
_PLACE = ("latency_backend", "latency_batch", "latency_threads")


@dataclass(frozen=True)
class Change:
    """One figure before and after.

    Attributes:
        what: its name.
        before: in words, with the stage that measured it; empty where nobody did.
        after: likewise.
        verdict: how they compare, in a word or two; empty where they do not.
        share: the one after over the one before, where that says something; else None.
        good: whether it went the right way; None where it cannot be told.
    """

    what: str
    before: str
    after: str
    verdict: str = ""
    share: float | None = None
    good: bool | None = None


def changes(way: Sequence[Outcome], details: Details) -> list[Change]:
    """The figures that the stages on one way through a run report."""
    found = (_change(name, way, details) for name in _FIGURES)
    return [change for change in found if change is not None]


def before_after_html(result: dict[str, Any], details: Details) -> str:
    """A card for each figure; a row of cards for each last stage where a run has branches."""
    stages = result["stages"]
    parts = []
    last = ends(stages)
    compared = False
    for name in last:
        heading = f"<h3>{escaped(name)}</h3>" if len(last) > 1 else ""
        found = changes(way_to(name, stages), details)
        compared = compared or any(change.before for change in found)
        cards = "".join(map(_card, found))
        parts.append(f'{heading}<div class="cards">{cards}</div>' if cards else "")
    return "".join([*parts, _LEGEND] if compared else parts)


def is_number(value: Any) -> bool:
    """A figure that can be drawn; NaN is a text once it was stored."""
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _change(name: str, way: Sequence[Outcome], details: Details) -> Change | None:
    what, text = _FIGURES[name]
    measured = [stage for stage in way if is_number(stage["metrics"].get(name))]
    if not measured:
        return None
    after = measured[-1]
    after_text = f"{text(after['metrics'])}, {after['id']}"
    before, origin = _before(name, way, details)
    if before is None or origin == after["id"]:
        return Change(what, "", after_text)
    change = Change(what, f"{text(before)}, {origin}", after_text)
    return _compared(name, change, before, after["metrics"])


def _before(name: str, way: Sequence[Outcome], details: Details) -> tuple[Mapping[str, Any] | None, str]:
    """The figures of the network before anything was taken from it, and where they come from.

    Of several, the last: it was trained longest, and a loss is not made up for by what training had yet to gain.
    """
    found: tuple[Mapping[str, Any] | None, str] = (None, "")
    for stage in way:
        if stage["uses"] not in _LEAVE_WHOLE:
            given = details.get(stage["id"], {}).get(f"{name}_before")
            return ({name: given}, f"before {stage['id']}") if found[0] is None and is_number(given) else found
        if is_number(stage["metrics"].get(name)):
            found = stage["metrics"], stage["id"]
    return found


def _compared(name: str, change: Change, before: Mapping[str, Any], after: Mapping[str, Any]) -> Change:
    old, new = float(before[name]), float(after[name])
    if name == "top1":
        return Change(change.what, change.before, change.after, f"{new - old:+.2f} points", None, new >= old)
    if name == "latency_ms" and any(before.get(one) != after.get(one) for one in _PLACE):
        return Change(change.what, change.before, change.after, "runtimes differ")
    if name == "bytes" and str(after.get("bytes_of", "")).endswith("formats"):
        return Change(change.what, change.before, change.after, "several formats")
    if old <= 0 or new <= 0:
        return change
    less, more = ("faster", "slower") if name == "latency_ms" else ("smaller", "larger")
    times = f"{max(old / new, new / old):{'.2g' if name == 'latency_ms' else '.3g'}}"  # a clock is less sure
    verdict = f"{times} × {less if new < old else more}"
    same = times == "1"
    return Change(
        change.what,
        change.before,
        change.after,
        "the same" if same else verdict,
        new / old,
        None if same else new < old,
    )


def _card(change: Change) -> str:
    tone = {True: " good", False: " bad", None: ""}[change.good]
    arrow = f"{escaped(change.before)} →<br>{escaped(change.after)}" if change.before else escaped(change.after)
    width = "" if change.share is None else f"{100 * min(change.share, 1):.1f}"
    meter = f'<div class="meter"><i style="width:{width}%"></i></div>' if width else ""
    verdict = f'<p class="verdict{tone}">{escaped(change.verdict)}</p>' if change.verdict else ""
    return f'<div class="card"><h4>{escaped(change.what)}</h4>{verdict}{meter}<p>{arrow}</p></div>'
