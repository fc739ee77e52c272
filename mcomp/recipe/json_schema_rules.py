"""What the models check between two keys of one mapping, as far as JSON Schema can say it.

A key counts as written only with a value of its own: ``max_drop: null`` is as good as left out, and a variable may
turn out to be null.
"""

from __future__ import annotations

from typing import Any

from mcomp.recipe.conditions import DROPS, LIMITS, RATIOS

Schema = dict[str, Any]

_QUESTIONS = ("backend", "device", "stage")


def _may_be(*names: str) -> Schema:
    """One of these is there, perhaps as a variable."""
    return {"anyOf": [{"required": [name], "properties": {name: {"not": {"enum": [None, []]}}}} for name in names]}


def _is(*names: str) -> Schema:
    """One of these is there with a value of its own."""
    value = {"not": {"anyOf": [{"type": "null"}, {"$ref": "#/$defs/variable"}]}}
    return {"anyOf": [{"required": [name], "properties": {name: value}} for name in names]}


def _if(condition: Schema, *then: Schema) -> Schema:
    return {"if": condition, "then": {"allOf": list(then)}}


def without(*keys: str) -> Schema:
    """None of these keys is written, or only as null or an empty list."""
    return {"not": _may_be(*keys)}


def not_swept(section: str) -> Schema:
    """No path of a sweep leads into a section of the recipe."""
    elsewhere = {"propertyNames": {"not": {"pattern": f"^[.\\[\"']*{section}"}}}  # also written `["stages"]…`
    return {"properties": {"sweep": {"properties": {"product": elsewhere, "zip": elsewhere}}}}


GATE_RULES: list[Schema] = [
    _may_be("min", "max", "max_drop", "max_ratio"),
    _if(_is("max_drop", "max_ratio"), _may_be("vs")),
    _if(_is("vs"), _may_be("max_drop", "max_ratio")),
    _if(_is("unit"), _may_be("max_drop")),
]

WHEN_RULES: list[Schema] = [
    _may_be(*_QUESTIONS),
    *(_if(_is(one), {"not": _is(*(other for other in _QUESTIONS if other != one))}) for one in _QUESTIONS),
    _if(_is("stage"), _may_be("metric"), _may_be(*LIMITS), {"not": {"required": ["present"]}}),
    _if(_is("backend", "device"), {"not": _is("metric", *LIMITS, "vs", "unit")}),
    _if(_is(*DROPS, *RATIOS), _may_be("vs")),
    _if(_is("vs"), _may_be(*DROPS, *RATIOS)),
    _if(_is("unit"), _may_be(*DROPS)),
]

KEYWORD_RULES: list[Schema] = [_if(_is("otherwise"), _may_be("when"))]
