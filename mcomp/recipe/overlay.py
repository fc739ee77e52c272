"""One recipe laid over another: what a file says wins over what it extends."""

from __future__ import annotations

from mcomp.recipe.tree import MapEntry, MapNode, ScalarNode
from mcomp.recipe.variables import variable_of

#: Sections of which a single key can be changed; every other value is replaced as a whole.
DEEP = ("vars", "model", "data", "metadata")
_NAMED = ("model", "data")


def overlay(base: MapNode, over: MapNode) -> MapNode:
    """``base`` changed by ``over``. The nodes are shared with both; every value keeps its mark.

    Another ``name`` under ``model`` or ``data`` is another model with other options: the mapping is replaced. A name
    that is a variable is the one that the files give it so far.
    """
    merged = MapNode(over.mark, dict(base.entries), base.poisoned or over.poisoned)
    entries = sorted(over.entries.items(), key=lambda one: one[0] != "vars")  # first what names may be made of
    for key, entry in entries:
        held, given = base.get(key), entry.value
        if (
            key in DEEP
            and isinstance(held, MapNode)
            and isinstance(given, MapNode)
            and not (key in _NAMED and _renames(held, given, base, merged))
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


def _renames(held: MapNode, given: MapNode, base: MapNode, merged: MapNode) -> bool:
    before, after = held.get("name"), given.get("name")
    if not isinstance(before, ScalarNode) or not isinstance(after, ScalarNode) or before.value == after.value:
        return False
    return _meant(before, base) != _meant(after, merged)


def _meant(name: ScalarNode, root: MapNode) -> object:
    """A name, or the value of the variable that it is."""
    variables, variable = root.get("vars"), variable_of(name)
    value = variables.get(variable) if isinstance(variables, MapNode) and variable is not None else None
    return value.value if isinstance(value, ScalarNode) else name.value
