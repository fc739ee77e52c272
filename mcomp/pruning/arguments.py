"""What a pruning was asked for, held against what there is."""

from __future__ import annotations

from collections.abc import Mapping
from typing import get_args

from mcomp.errors import UsageError
from mcomp.pruning.allocation import Scope
from mcomp.pruning.importance import IMPORTANCES, NORMALIZATIONS, REDUCTIONS
from mcomp.pruning.targets import Kind, Target, target_of
from mcomp.pruning.tracing import Heads
from mcomp.suggest import did_you_mean


def check_amounts(
    given: Mapping[Kind, float | str | None], regular: int, min_channels: int, *, listed: bool = False
) -> Target | None:
    """See that the numbers given to :func:`mcomp.pruning.prune` are in their ranges.

    Args:
        given: the targets.
        regular: as for ``prune``.
        min_channels: as for ``prune``.
        listed: shares are given by ``keep`` or ``prune``.

    Returns:
        The target: half of the channels where neither it nor a list is given.

    Raises:
        UsageError: MC417, one is not, or there are several targets.
    """
    try:
        target = target_of(given)
    except ValueError as error:
        raise UsageError(str(error), code="MC417") from None
    for name, value in (("regular", regular), ("min_channels", min_channels)):
        if value < 1:
            raise UsageError(f"`{name}` is {value}; it must be at least 1", code="MC417")
    return target if target is not None or listed else Target("ratio", 0.5)


def check_choices(
    importance: str, scope: str, heads: str, group_reduction: str = "mean", normalize: str = "auto"
) -> None:
    """See that the words given to :func:`mcomp.pruning.prune` exist.

    Raises:
        UsageError: MC417, one does not.
    """
    _one_of("importance", importance, IMPORTANCES)
    _one_of("scope", scope, get_args(Scope))
    _one_of("heads", heads, get_args(Heads))
    _one_of("group_reduction", group_reduction, REDUCTIONS)
    _one_of("normalize", normalize, NORMALIZATIONS)


def _one_of(name: str, value: str, known: tuple[str, ...]) -> None:
    if value not in known:
        raise UsageError(
            f"`{name}` is `{value}`; one of {', '.join(known)}", code="MC417", hint=did_you_mean(value, known)
        )
