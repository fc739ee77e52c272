"""Finds one's way in a model's JSON schema: what may stand at a place, and within which limits."""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache
from typing import Any

from pydantic import BaseModel

Schema = dict[str, Any]


@lru_cache(maxsize=64)
def schema_of(model: type[BaseModel]) -> Schema:
    """The model's schema; only needed once something is wrong."""
    return model.model_json_schema()


def alternatives(model: type[BaseModel], path: tuple[str | int, ...]) -> list[Schema]:
    """Every schema that the value at ``path`` may follow, references resolved."""
    root = schema_of(model)
    found = list(_spread(root, root))
    for step in path:
        found = [below for one in found for child in _children(one, step) for below in _spread(child, root)]
    return found


def names_at(model: type[BaseModel], path: tuple[str | int, ...]) -> list[str]:
    """Names of the options that a mapping at ``path`` may hold."""
    names: dict[str, None] = {}
    for one in alternatives(model, path):
        names.update(dict.fromkeys(one.get("properties", {})))
    return list(names)


def limits_at(model: type[BaseModel], path: tuple[str | int, ...]) -> str:
    """The numeric limits at ``path`` in words, e.g. ``greater than 0 and less than 1``."""
    for one in alternatives(model, path):
        words = [
            f"{text} {one[key]:g}" if isinstance(one[key], float) else f"{text} {one[key]}"
            for key, text in _LIMITS.items()
            if key in one
        ]
        if words:
            return " and ".join(words)
    return ""


def expected_at(model: type[BaseModel], path: tuple[str | int, ...]) -> str:
    """What a field says of itself with ``json_schema_extra={"expected": "…"}``."""
    return next((str(one["expected"]) for one in alternatives(model, path) if "expected" in one), "")


_LIMITS = {
    "exclusiveMinimum": "greater than",
    "minimum": "at least",
    "exclusiveMaximum": "less than",
    "maximum": "at most",
}


def _spread(schema: Schema, root: Schema) -> Iterator[Schema]:
    if "$ref" in schema:
        yield from _spread(root["$defs"][schema["$ref"].rpartition("/")[2]], root)
        return
    inner = [*schema.get("anyOf", ()), *schema.get("oneOf", ()), *schema.get("allOf", ())]
    if not inner or "expected" in schema:
        yield schema
    for one in inner:
        yield from _spread(one, root)


def _children(schema: Schema, step: str | int) -> Iterator[Schema]:
    if isinstance(step, int):
        below = schema.get("items")
    else:
        below = schema.get("properties", {}).get(step, schema.get("additionalProperties"))
    if isinstance(below, dict):
        yield below
