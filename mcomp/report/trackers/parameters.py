"""A resolved recipe as flat parameters: what the tables of trackers are filtered and compared by."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from mcomp.recipe.diagnostics import Faults
from mcomp.recipe.loader import parse
from mcomp.recipe.tree import MapNode, Source, plain
from mcomp.recipe.variables import ESCAPED, PLAIN

Scalar = str | int | float | bool


def flat_parameters(lock: str) -> dict[str, Scalar]:
    """``data.batch_size``, ``stages.prune.ratio`` …: the paths of ``--set``, each with its value.

    Args:
        lock: the text of ``recipe.lock.yaml``; nothing is found in a text that is no recipe.
    """
    root = parse(Source("recipe.lock.yaml", lock), Faults())
    recipe: dict[str, Any] = plain(root) if isinstance(root, MapNode) else {}
    stages = recipe.pop("stages", [])
    found = dict(_leaves("", recipe))
    for entry in stages:
        uses, options = next(iter(entry.items()))
        name = entry.get("id", uses)
        found |= dict(_leaves(f"stages.{name}", options or {}))
        keywords = {key: value for key, value in entry.items() if key not in (uses, "id")}
        found |= {f"stages.{name}.{key}": _scalar(value) for key, value in keywords.items()}
    return found


def _leaves(path: str, value: Any) -> Iterator[tuple[str, Scalar]]:
    if isinstance(value, Mapping):
        for key, below in value.items():
            yield from _leaves(f"{path}.{key}" if path else str(key), below)
    elif value is not None:
        yield path, _scalar(value)


def _scalar(value: Any) -> Scalar:
    if isinstance(value, str):
        return value.replace(ESCAPED, PLAIN)
    if isinstance(value, int | float):
        return value
    return json.dumps(value, default=str).replace(ESCAPED, PLAIN)
