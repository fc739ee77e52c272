"""The channels that the ratio of a schedule is a share of, followed through its steps. Importable without torch."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from mcomp.pruning.whole_layers import reasons_by_layer, speaks_of_counts

if TYPE_CHECKING:
    from mcomp.pruning import ChannelGroups, PruneResult


@dataclass
class RankedChannels:
    """Those that are ranked against one another: of layers that no list names and that can be cut.

    Attributes:
        layers: group to the layers that make its channels.
        whole: group to its channels before the first step.
        now: the same, after the last; coupled ones count once.
        stuck: layer to the reason why an earlier step found that it cannot be cut.
    """

    layers: dict[str, list[str]] = field(default_factory=dict)
    whole: dict[str, int] = field(default_factory=dict)
    now: dict[str, float] = field(default_factory=dict)
    stuck: dict[str, str] = field(default_factory=dict)

    @classmethod
    def of(cls, groups: ChannelGroups, listed: set[str]) -> RankedChannels:
        """Those of a network that is whole, without the groups that are listed."""
        ranked = [group for group in groups.prunable if group.name not in listed]
        whole = {group.name: group.channels for group in ranked}
        return cls({group.name: list(group.producers) for group in ranked}, whole, {**whole})

    def cut(self, found: PruneResult) -> None:
        """What a step did: some groups are narrower, and others turned out not to be ranked at all."""
        reasons = reasons_by_layer(found.notes)
        for group, layers in self.layers.items():
            for layer in layers:
                if layer in found.kept:
                    self.now[group] *= len(found.kept[layer]) / found.widths[layer]
                    break
            for layer in layers:
                if layer in reasons and not speaks_of_counts(reasons[layer]):
                    self.stuck.setdefault(layer, reasons[layer])

    @property
    def left(self) -> float:
        """The share of them that is still there."""
        apart = self._stuck_groups()
        whole = sum(width for group, width in self.whole.items() if group not in apart)
        return sum(width for group, width in self.now.items() if group not in apart) / whole if whole else 1.0

    @property
    def channels_apart(self) -> int:
        """How many the groups hold that a later step leaves out."""
        return round(sum(self.now[group] for group in self._stuck_groups()))

    def _stuck_groups(self) -> set[str]:
        return {group for group, layers in self.layers.items() if not self.stuck.keys().isdisjoint(layers)}

    def state(self) -> dict[str, Any]:
        """For a snapshot; ``RankedChannels(**state)`` is the inverse."""
        return {"layers": self.layers, "whole": self.whole, "now": self.now, "stuck": self.stuck}
