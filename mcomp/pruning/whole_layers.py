"""Notes on what a pruning left whole. Importable without torch."""

from __future__ import annotations

import re
from collections.abc import Collection

_LEFT_WHOLE = re.compile(r"left whole: (`[^`]*`(?:, `[^`]*`)*): (.*)", re.DOTALL)
_OF_COUNTS = re.compile(r"`min_channels` is|hold no smaller multiple of|lie above the threshold$")


def left_whole(layers: Collection[str], reason: str) -> str:
    """The note on layers that kept all their channels for one reason."""
    return f"left whole: {', '.join(f'`{name}`' for name in layers)}: {reason}"


def of_whole_layers(notes: Collection[str], whole: Collection[str]) -> list[str]:
    """The notes, with those on layers left whole cut down to the layers in ``whole``."""
    kept = []
    for note in notes:
        found = _LEFT_WHOLE.fullmatch(note)
        if found is None:
            kept.append(note)
        elif mine := [name for name in re.findall(r"`([^`]*)`", found[1]) if name in whole]:
            kept.append(left_whole(mine, found[2]))
    return kept


def reasons_by_layer(notes: Collection[str]) -> dict[str, str]:
    """Layer to the reason why it was left whole."""
    told = [found for note in notes if (found := _LEFT_WHOLE.fullmatch(note))]
    return {name: found[2] for found in told for name in re.findall(r"`([^`]*)`", found[1])}


def speaks_of_counts(reason: str) -> bool:
    """Whether the layer was ranked with the others, and only its count came out as its whole width."""
    return _OF_COUNTS.search(reason) is not None
