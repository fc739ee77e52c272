"""Which values are paths, and what they are relative to.

A path of the recipe file is relative to that file; one given with ``--set`` to the current folder, so it
is made absolute at once. ``~`` is a person's home in both. An option says that it is a path with
``Field(json_schema_extra={"path": True})``.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from mcomp.recipe.tree import ListNode, MapNode, Node, ScalarNode

#: Options of models and data sets that are paths.
WELL_KNOWN = frozenset({"weights", "root"})


def path_options(model: type[BaseModel], known: frozenset[str] = frozenset()) -> set[str]:
    """Names of the options that hold a path."""
    found = set()
    for name, info in model.model_fields.items():
        extra = info.json_schema_extra
        if name in known or (isinstance(extra, dict) and extra.get("path")):
            found.add(name)
    return found


def anchor_sets(node: Node | None, names: set[str], folder: Path) -> None:
    """Make the paths of a section that are below a home, or that ``--set`` put there, absolute.

    ``name`` may be ``file.py:factory``.
    """
    if not isinstance(node, MapNode):
        return
    for name in names & node.entries.keys():
        anchor_set(node.entries[name].value, folder)


def anchor_set(node: Node, folder: Path) -> None:
    """The same for a single value, or for each item of a list."""
    if isinstance(node, ListNode):
        for item in node.items:
            anchor_set(item, folder)
    elif isinstance(node, ScalarNode) and isinstance(node.value, str):
        from_set = node.mark.source.kind == "set"
        node.value = anchored(node.value, folder) if from_set else os.path.expanduser(node.value)


def anchored(text: str, folder: Path) -> str:
    """``text`` below ``folder``; of ``file.py:factory`` the file. Other names with a colon are left alone."""
    text = os.path.expanduser(text)
    file, colon, function = text.rpartition(":")
    if colon and file.endswith(".py"):
        return f"{folder / file}:{function}"
    return text if colon and "/" not in text else str(folder / text)


def absolute(dumped: dict[str, Any], names: set[str], base: Path) -> dict[str, Any]:
    """Dumped options with their paths made absolute, so that they mean the same from any folder."""
    return {
        name: anchored(value, base) if name in names and isinstance(value, str) else value
        for name, value in dumped.items()
    }
