"""What a search tried and what it chose: its course, accuracy against each cost, the choice by layer."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mcomp.engine.display import escaped
from mcomp.errors import plural
from mcomp.report.before_after import is_number
from mcomp.report.scatter import Dot, Frame

_ACCURACY = "held-out top-1, percent"
_COSTS = {
    "avg_bit_weights": "mean bits of weights",
    "avg_bit_fm": "mean bits of what layers read",
    "macs": "MACs",
    "params": "parameters",
    "bytes": "bytes",
    "latency_ms": "estimated latency, ms",
}
_FULL, _CHEAP = "fill:var(--main)", "fill:var(--main);fill-opacity:.3"
_BIT_COLUMNS = {"w_bits": "weight bits", "a_bits": "input bits"}


@dataclass(frozen=True)
class _Look:
    """One trial that could be made."""

    number: int
    close: bool
    top1: float
    costs: Mapping[str, float]


def search_figures(stage: str, details: Mapping[str, Any]) -> str:
    """The section of a stage that searched; empty where its details hold no search.

    Args:
        stage: its id.
        details: ``search``, as :meth:`mcomp.stages.searching.outcome.Outcome.details` gives it.
    """
    held = details.get("search")
    if not isinstance(held, Mapping):
        return ""
    trials = [row for row in held.get("trials") or [] if _is_trial(row)]
    looks = [_look(row) for row in trials if is_number(row.get("top1"))]
    best = next((one for one in looks if one.close and one.number == held.get("best")), None)
    if best is None:
        return ""
    close = [one for one in looks if one.close]
    parts = [
        f"<p>{escaped(_counted(trials, close))}</p>",
        f"<h3>Best so far</h3>{_course(stage, looks, best)}",
        '<p class="legend">light: cheap looks, which guide the search; full: close looks; line: the best of these so '
        "far; ring: the choice</p>",
        *_fronts(stage, held, close, best),
        _choice(held),
    ]
    return f"<section><h2>{escaped(stage)}: candidates</h2>{''.join(parts)}</section>\n"


def front_of(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """Of pairs of a cost and an accuracy those that no cheaper one reaches, by rising cost."""
    found: list[tuple[float, float]] = []
    for cost, accuracy in sorted(set(points), key=lambda point: (point[0], -point[1])):
        if not found or accuracy > found[-1][1]:
            found.append((cost, accuracy))
    return found


def _counted(trials: Sequence[Mapping[str, Any]], close: Sequence[_Look]) -> str:
    tried = len({row["number"] for row in trials})
    failed = len({row["number"] for row in trials if not is_number(row.get("top1"))})
    lost = f", {failed} could not be made and are not drawn" if failed else ""
    return f"{plural(tried, 'candidate')}, {len(close)} looked at closely{lost}"


def _course(stage: str, looks: Sequence[_Look], best: _Look) -> str:
    """Accuracy over the number of the candidate."""
    frame = Frame.around([one.number for one in looks], [one.top1 for one in looks], "candidate", _ACCURACY)
    close = sorted((one for one in looks if one.close), key=lambda one: one.number)
    risen = _rising(close)
    ends = [*risen, (float(max(one.number for one in looks)), risen[-1][1])]
    said = f"candidate {best.number}: {best.top1:.2f} %"
    return frame.svg(
        f"{stage}: best held-out top-1 so far",
        f"{len(looks)} looks at candidates; the choice is {said}",
        [
            frame.dots([_dot(one) for one in looks if not one.close], "cheap", _CHEAP, 2.5),
            frame.steps(ends),
            frame.dots([_dot(one) for one in close], "close", _FULL, 3),
            frame.ring(_dot(best), said),
        ],
    )


def _fronts(stage: str, held: Mapping[str, Any], close: Sequence[_Look], best: _Look) -> Iterator[str]:
    """Accuracy over each cost that differs between candidates, or is an objective."""
    aims, budgets = held.get("objectives") or [], held.get("budgets") or {}
    for name in best.costs:
        shown = [one for one in close if name in one.costs]
        if len({one.costs[name] for one in shown}) < 2 and name not in aims:
            continue
        called, limit = _COSTS.get(name, name), budgets.get(name)
        bounds = [float(limit)] if limit is not None and is_number(limit) else []
        frame = Frame.around(
            [*(one.costs[name] for one in shown), *bounds], [one.top1 for one in shown], called, _ACCURACY
        )
        points = front_of([(one.costs[name], one.top1) for one in shown])
        said = f"candidate {best.number}: {best.top1:.2f} %"
        drawing = frame.svg(
            f"{stage}: top-1 against {called}",
            f"{len(shown)} close looks; the front has {len(points)} steps; the choice is {said}, "
            f"{_figure(best.costs[name])}",
            [
                *(frame.limit(each, f"budget {_figure(each)}") for each in bounds),
                frame.steps(points),
                frame.dots([_dot(one, name) for one in shown], "close", _FULL, 3),
                frame.ring(_dot(best, name), said),
            ],
        )
        yield f"<h3>Top-1 against {escaped(called)}</h3>{drawing}"


def _choice(held: Mapping[str, Any]) -> str:
    """Bits and channels by layer."""
    rows = [row for row in held.get("layers") or [] if isinstance(row, Mapping)]
    widths = held.get("widths") or {}
    kinds = [kind for kind in _BIT_COLUMNS if any(kind in row for row in rows)]
    pruned = any("keep" in row for row in rows)
    if not rows:
        return ""
    head = ["layer", *(_BIT_COLUMNS[kind] for kind in kinds), *(["share that stays", "channels"] if pruned else [])]
    body = "".join(
        f'<tr><th scope="row">{escaped(str(row.get("layer")))}</th>'
        + "".join(f"<td>{escaped(text)}</td>" for text in _cells(row, kinds, pruned, widths))
        + "</tr>"
        for row in rows
    )
    return (
        "<h3>The choice</h3>"
        f'<div class="scroll"><table><thead><tr>{"".join(f"""<th scope="col">{each}</th>""" for each in head)}</tr>'
        f"</thead><tbody>{body}</tbody></table></div>"
    )


def _cells(row: Mapping[str, Any], kinds: Sequence[str], pruned: bool, widths: Mapping[str, Any]) -> Iterator[str]:
    for kind in kinds:
        yield f"{row[kind]:g}" if is_number(row.get(kind)) else "–"
    if pruned and is_number(row.get("keep")):
        width = widths.get(str(row.get("layer")))
        yield f"{100 * row['keep']:.1f} %"
        yield str(width) if width is not None else "all"
    elif pruned:
        yield from ("–", "–")


def _rising(close: Sequence[_Look]) -> list[tuple[float, float]]:
    """The best so far, at each candidate that raised it."""
    found = [(float(close[0].number), close[0].top1)]
    for one in close[1:]:
        if one.top1 > found[-1][1]:
            found.append((float(one.number), one.top1))
    return found


def _dot(look: _Look, cost: str = "") -> Dot:
    """A look over its number, or over a cost."""
    where = look.costs[cost] if cost else look.number
    beside = f", {_COSTS.get(cost, cost)} {_figure(where)}" if cost else ""
    how = "close look" if look.close else "cheap look"
    return Dot(where, look.top1, f"candidate {look.number}, {how}: {look.top1:.2f} %{beside}")


def _figure(value: float) -> str:
    return f"{value:.0f}" if value >= 1000 else f"{value:.4g}"


def _look(row: Mapping[str, Any]) -> _Look:
    costs = {name: value for name, value in (row.get("costs") or {}).items() if is_number(value)}
    return _Look(row["number"], row.get("level") == "full", float(row["top1"]), costs)


def _is_trial(row: Any) -> bool:
    return isinstance(row, Mapping) and isinstance(row.get("number"), int)
