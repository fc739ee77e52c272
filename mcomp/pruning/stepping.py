"""Move the widths of single groups by steps of their rounding, to come nearer to a target than a ratio can."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from mcomp.pruning.channel_groups import ChannelGroup

#: No group moves further than by this share of its width, or one step where that is wider.
_FURTHEST = 1 / 16

#: A move has to bring the cost nearer by this share of what is missing: rounding errors alone never do.
_PROGRESS = 1e-6


def stepped(
    groups: Sequence[ChannelGroup],
    bases: Mapping[str, int],
    counts: Mapping[str, int],
    min_channels: int,
    predicted: Callable[[Mapping[str, float]], float],
    change: float,
) -> dict[str, int]:
    """Widths near ``counts`` whose predicted cost differs from theirs by ``change``, as nearly as single steps allow.

    The step that leaves least to go comes first.

    Args:
        groups: prunable ones.
        bases: group to what its count must divide by.
        counts: group to kept channels.
        min_channels: no group keeps fewer.
        predicted: widths to their cost.
        change: more, or where it is negative less than they cost now.

    Returns:
        All counts; the same ones where no step leads nearer.
    """
    moved, left = dict(counts), change
    while True:
        now = predicted(moved)
        steps = [
            (abs(left - (predicted(moved | {group.name: count}) - now)), group.name, count)
            for group in groups
            for count in (moved[group.name] - bases[group.name], moved[group.name] + bases[group.name])
            if _is_possible(group, count, counts[group.name], bases[group.name], min_channels)
        ]
        distance, name, count = min(steps, key=lambda step: step[0], default=(abs(left), "", 0))
        if distance >= (1 - _PROGRESS) * abs(left):
            return moved
        left -= predicted(moved | {name: count}) - now
        moved[name] = count


def _is_possible(group: ChannelGroup, count: int, before: int, base: int, min_channels: int) -> bool:
    fits = max(base, group.least(min_channels)) <= count <= group.channels and count % base == 0
    return fits and abs(count - before) <= max(base, group.channels * _FURTHEST)
