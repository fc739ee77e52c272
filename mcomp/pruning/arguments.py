"""What a pruning was asked for, held against what there is."""

from __future__ import annotations

import numbers
from collections.abc import Mapping, Sequence, Set
from typing import Any, get_args

from mcomp.errors import UsageError
from mcomp.pruning.allocation import Scope
from mcomp.pruning.importance import IMPORTANCES, NORMALIZATIONS, REDUCTIONS
from mcomp.pruning.targets import Kind, Target, is_number, shown, target_of
from mcomp.pruning.tracing import Heads
from mcomp.suggest import did_you_mean


def check_amounts(
    given: Mapping[Kind, Any], regular: int, min_channels: int, seed: int = 0, *, listed: bool = False
) -> Target | None:
    """See that the numbers given to :func:`mcomp.pruning.prune` are in their ranges.

    Args:
        given: the targets.
        regular: as for ``prune``.
        min_channels: as for ``prune``.
        seed: as for ``prune``.
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
        check_whole(name, value, least=1)
    check_whole("seed", seed)
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


def check_whole(name: str, value: object, *, least: int | None = None) -> None:
    """See that an argument is a whole number, no less than ``least``.

    Raises:
        UsageError: MC417, it is not.
    """
    if isinstance(value, bool) or not isinstance(value, numbers.Integral):
        raise UsageError(f"`{name}` is {shown(value)}; it must be a whole number", code="MC417")
    if least is not None and value < least:
        raise UsageError(f"`{name}` is {value}; it must be at least {least}", code="MC417")


def check_patterns(option: str, patterns: object) -> None:
    """See that an argument lists names or patterns of layers.

    Raises:
        UsageError: MC417, it does not; a single pattern is a list of one.
    """
    if isinstance(patterns, str):
        raise UsageError(
            f"`{option}` is the text {shown(patterns)}; it must list names or patterns of layers",
            code="MC417",
            hint=f"write `{option}=[{patterns!r}]`",
        )
    if patterns is None or not isinstance(patterns, Sequence | Set):
        hint = f"leave it out where it should be empty, or write e.g. `{option}=['features.*']`"
        raise UsageError(f"`{option}` is {shown(patterns)}; it must be a list of patterns", code="MC417", hint=hint)
    for pattern in patterns:
        if not isinstance(pattern, str):
            raise UsageError(
                f"`{option}` holds {shown(pattern)}; names and patterns of layers are texts, such as 'features.*'",
                code="MC417",
            )


def check_lists(keep: object, prune: object, ignore: object) -> None:
    """See that what names layers is of the kinds that :func:`mcomp.pruning.prune` takes.

    Raises:
        UsageError: MC417, something is not.
    """
    check_shares("keep", keep)
    check_shares("prune", prune)
    check_patterns("ignore", ignore)


def check_shares(option: str, shares: object) -> None:
    """See that ``keep`` or ``prune`` is a mapping of layers to numbers, or a list of numbers.

    Raises:
        UsageError: MC417, it is neither.
    """
    if shares is None:
        return
    if isinstance(shares, Mapping):
        check_patterns(option, list(shares))
        named = [(f" of `{layer}`", share) for layer, share in shares.items()]
    elif isinstance(shares, Sequence) and not isinstance(shares, str):
        named = [(f" of layer {place}", share) for place, share in enumerate(shares, 1)]
    else:
        raise UsageError(
            f"`{option}` is {shown(shares)}; it must map layers to shares, or list one share for each layer",
            code="MC417",
            hint=f"write e.g. `{option}={{'features.*': 0.5}}`; `ratio=` cuts one share of the whole network",
        )
    for where, share in named:
        if not is_number(share):
            raise UsageError(f"`{option}` says {shown(share)}{where}; it must be a number", code="MC417")


def _one_of(name: str, value: object, known: tuple[str, ...]) -> None:
    if not isinstance(value, str) or value not in known:
        said = f"`{value}`" if isinstance(value, str) else shown(value)
        hint = did_you_mean(value, known) if isinstance(value, str) else ""
        raise UsageError(f"`{name}` is {said}; one of {', '.join(known)}", code="MC417", hint=hint)
