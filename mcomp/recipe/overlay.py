"""One recipe laid over another: what a file says wins over what it extends."""

from __future__ import annotations

from mcomp.recipe.tree import MapEntry, MapNode, ScalarNode

#: Sections of which a single key can be changed; every other value is replaced as a whole.
DEEP = ("vars", "model", "data", "metadata")
_NAMED = ("model", "data")


def overlay(base: MapNode, over: MapNode) -> MapNode:
    """``base`` changed by ``over``. The nodes are shared with both; every value keeps its mark.

    Another ``name`` under ``model`` or ``data`` is another model with other options: the mapping is replaced.
    """
    merged = MapNode(over.mark, dict(base.entries), base.poisoned or over.poisoned)
    for key, entry in over.entries.items():
        held, given = base.get(key), entry.value
        if (
            key in DEEP
            and isinstance(held, MapNode)
            and isinstance(given, MapNode)
            and not (key in _NAMED and _renames(held, given))
        ):
            entry = MapEntry(entry.key, deep(held, given))
        merged.entries[key] = entry
    return merged


def deep(base: MapNode, over: MapNode) -> MapNode:
    """``base`` with the keys of ``over``, mappings in both merged in turn; lists and single values replace."""
    merged = MapNode(over.mark, dict(base.entries), base.poisoned or over.poisoned)
    for key, entry in over.entries.items():
        held, given = base.get(key), entry.value
        if isinstance(held, MapNode) and isinstance(given, MapNode):
            entry = MapEntry(entry.key, deep(held, given))
        merged.entries[key] = entry
    return merged


def _renames(base: MapNode, over: MapNode) -> bool:
    before, after = base.get("name"), over.get("name")
    return isinstance(before, ScalarNode) and isinstance(after, ScalarNode) and before.value != after.value
