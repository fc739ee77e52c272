"""What a person said each layer is to keep: by name, or in the order of execution."""

from __future__ import annotations

import fnmatch
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from mcomp.errors import UsageError
from mcomp.pruning.channel_groups import ChannelGroups, layer_name
from mcomp.suggest import did_you_mean

#: Layer or pattern to the share of its channels, or a list of shares, one for each layer in the order of execution.
Shares = Mapping[str, int | float] | Sequence[int | float]

_OUTPUT = "is an output of the network"


@dataclass(frozen=True)
class KeepList:
    """What was said, held against a network.

    Attributes:
        layers: layer to the share of its channels that it is to keep.
        groups: group to how many of its channels that is, not rounded yet.
        notes: where coupled layers were told different shares.
    """

    layers: dict[str, float] = field(default_factory=dict)
    groups: dict[str, float] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


def keep_list(groups: ChannelGroups, keep: Shares | None, prune: Shares | None) -> KeepList:
    """Understand ``keep`` and ``prune``.

    A name or pattern that comes later replaces what an earlier one said of a layer. Coupled layers have one width: they
    get the mean of what was said of them.

    Args:
        groups: of the network.
        keep: shares that stay, in (0, 1]; a whole number is a count of channels.
        prune: shares that go, in [0, 1).

    Raises:
        UsageError: MC418, a pattern matches no layer; MC457, a list has another length than the network has layers,
            or something is said twice; MC417, a number is out of its range.
    """
    widths = layer_widths(groups)
    said = _said(groups, keep, widths, "keep")
    for name, share in _said(groups, prune, widths, "prune").items():
        if name in said:
            raise UsageError(
                f"layer `{name}` is matched by both `keep` and `prune`",
                code="MC457",
                hint="say of each layer what stays or what goes, not both",
            )
        said[name] = 1 - share
    found = KeepList(said)
    for group in groups.prunable:
        mine = {layer: said[layer] for layer in group.producers if layer in said}
        if mine:
            share = sum(mine.values()) / len(mine)
            found.groups[group.name] = share * group.channels
            if len(set(mine.values())) > 1:
                each = ", ".join(f"`{layer}` {value:.3g}" for layer, value in mine.items())
                found.notes.append(
                    f"coupled layers keep one share, the mean {share:.3g} of what they were told: {each}"
                )
    return found


def layer_widths(groups: ChannelGroups) -> dict[str, int]:
    """Every layer that makes channels, in order of execution, to how many."""
    sites = groups.trace.sites.values()
    return {layer_name(site.key): len(site.labels) for site in sites if site.role == "rows"}


def _said(groups: ChannelGroups, shares: Shares | None, widths: dict[str, int], option: str) -> dict[str, float]:
    if shares is None:
        return {}
    if isinstance(shares, Mapping):
        found: dict[str, float] = {}
        for pattern, value in shares.items():
            for name in matching(pattern, widths, option):
                found[name] = _share(value, widths[name], option, name)
        return found
    layers = list(widths)
    outputs = {name for group in groups if group.whole == _OUTPUT for name in group.producers}
    inner = [name for name in layers if name not in outputs]
    if len(shares) not in (len(layers), len(inner)):
        raise UsageError(
            f"`{option}` lists {len(shares)} shares; the network has {len(layers)} layers, "
            f"{len(inner)} without those that make its output",
            code="MC457",
            hint=f"give one share for each layer in order of execution ({', '.join(layers[:4])} …), or name the layers",
        )
    named = dict(zip(layers if len(shares) == len(layers) else inner, shares, strict=True))
    return {name: _share(float(value), widths[name], option, name) for name, value in named.items()}


def matching(pattern: str, names: Mapping[str, object] | Sequence[str], option: str) -> list[str]:
    """The layers that a pattern matches.

    Raises:
        UsageError: MC418, there is none.
    """
    known = list(names)
    found = fnmatch.filter(known, pattern)
    if not found:
        raise UsageError(
            f"`{option}` pattern `{pattern}` matches no layer",
            code="MC418",
            hint=did_you_mean(pattern, known) or f"layers: {', '.join(known[:8])} …",
        )
    return found


def _share(value: float, width: int, option: str, layer: str) -> float:
    if option == "keep" and isinstance(value, int) and not isinstance(value, bool):
        if not 1 <= value <= width:
            raise UsageError(
                f"`keep` asks for {value} channels of `{layer}`, which has {width}",
                code="MC417",
                hint="a whole number counts channels, a number with a point is a share: `1.0` is all of them",
            )
        return value / width
    low, high = (value > 0, value <= 1) if option == "keep" else (value >= 0, value < 1)
    if not (low and high):
        span = "above 0 and at most 1" if option == "keep" else "at least 0 and below 1"
        raise UsageError(f"`{option}` says {value} of `{layer}`; a share must be {span}", code="MC417")
    return float(value)
