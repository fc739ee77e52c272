"""A resolved recipe as flat parameters: what the tables of trackers are filtered and compared by."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

import yaml

Scalar = str | int | float | bool


def flat_parameters(lock: str) -> dict[str, Scalar]:
    """``data.batch_size``, ``stages.prune.ratio`` …: the paths of ``--set``, each with its value.

    Args:
        lock: the text of ``recipe.lock.yaml``.
    """
    recipe: dict[str, Any] = yaml.safe_load(lock)
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
    return value if isinstance(value, str | int | float | bool) else json.dumps(value, default=str)
