"""The entries of ``stages`` in the JSON schema."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mcomp.recipe.json_schema_variables import USE
from mcomp.recipe.schema import OUTCOMES

Schema = dict[str, Any]

_BESIDE_AN_ALTERNATIVE = ("gates", "seed", "cache")


@dataclass(frozen=True)
class StageShape:
    """What the schema says of one stage.

    Attributes:
        options: the schema of its options.
        required: names of the options without a default.
        summary: for editors.
    """

    options: Schema
    required: Sequence[str]
    summary: str


def stage_definitions(shapes: Mapping[str, StageShape], keywords: Schema, *, complete: bool) -> dict[str, Schema]:
    """Definitions for an entry, for what may stand under ``otherwise``, and for the two stricter looks at both.

    ``known_…`` asks that the stage is one of ``shapes``, which plug-ins may add to; ``whole_…`` that no required option
    is missing, which an ``override`` or a ``sweep`` may bring.

    Args:
        shapes: by the stages' names.
        keywords: the schema of the keys beside a stage.
        complete: no other stage can be meant.
    """
    beside = list(keywords["properties"])
    return {
        "keywords": keywords,
        "stage": {"anyOf": [{"enum": [*shapes]}, *_entries(shapes, beside, complete=complete), USE]},
        "alternative": {
            "anyOf": [
                {"enum": [*OUTCOMES, *shapes]},
                *_entries(shapes, _BESIDE_AN_ALTERNATIVE, complete=complete),
                {"type": "null"},
                USE,
            ]
        },
        "known_stage": _known(shapes, ()) | {"properties": {"otherwise": {"$ref": "#/$defs/known_alternative"}}},
        "known_alternative": _known(shapes, OUTCOMES),
        "whole_stage": _whole(shapes, {"otherwise": {"$ref": "#/$defs/whole_alternative"}}),
        "whole_alternative": _whole(shapes, {}),
    }


def _entries(shapes: Mapping[str, StageShape], beside: Sequence[str], *, complete: bool) -> list[Schema]:
    keywords = {"$ref": "#/$defs/keywords"}
    found: list[Schema] = [
        {
            "type": "object",
            "description": shape.summary,
            "properties": {name: {"anyOf": [shape.options, {"type": "null"}, USE]}, **dict.fromkeys(beside, True)},
            "required": [name],
            "additionalProperties": False,
            "allOf": [keywords],
        }
        for name, shape in shapes.items()
    ]
    if complete:
        return found
    anything = {"anyOf": [{"type": ["object", "null"]}, USE]}
    ours = {"anyOf": [{"required": [name]} for name in shapes]}
    nameless = {"propertyNames": {"enum": [*beside]}}
    of_a_plugin: Schema = {
        "type": "object",
        "description": "A stage of a plug-in.",
        "properties": dict.fromkeys(beside, True),
        "additionalProperties": anything,
        "not": {"anyOf": [ours, nameless]},
        "allOf": [keywords],
    }
    return [*found, {"type": "string", "minLength": 1, "not": {"enum": [*shapes]}}, of_a_plugin]


def _known(shapes: Mapping[str, StageShape], words: Sequence[str]) -> Schema:
    other = {"not": {"type": ["string", "object"]}}
    named = {"type": "object", "anyOf": [{"required": [name]} for name in shapes]}
    return {"anyOf": [{"enum": [*words, *shapes]}, named, USE, other]}


def _whole(shapes: Mapping[str, StageShape], below: Schema) -> Schema:
    demanding = {name: shape for name, shape in shapes.items() if shape.required}
    complete = {
        name: {"if": {"type": ["object", "null"]}, "then": {"type": "object", "required": [*shape.required]}}
        for name, shape in demanding.items()
    }
    return {"not": {"enum": [*demanding]}, "properties": {**complete, **below}}
