"""The JSON schema of a recipe (draft 2020-12), for editors: the same models that validation uses."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from mcomp.recipe.gates import Gate
from mcomp.recipe.schema import RecipeModel, StageKeywords
from mcomp.recipe.stage_entries import LATER_KEYWORDS

Schema = dict[str, Any]

_VARIABLE = {"type": "string", "pattern": r"\$\{[A-Za-z_][A-Za-z0-9_]*\}"}
_USE = {"$ref": "#/$defs/variable"}
_SCHEMA_KEYS = ("anyOf", "oneOf", "allOf")


def recipe_json_schema() -> Schema:
    """The schema of a recipe with every stage, model and data set known here.

    A value may everywhere be a variable, ``"${name}"``, instead of what its own schema asks for.
    """
    from mcomp.data import spec
    from mcomp.models import registry as models
    from mcomp.stages import registry as stages

    stage_models: dict[str, type[BaseModel]] = {name: stages.get(name).Options for name in stages.names()}
    model_models: dict[str, type[BaseModel]] = {name: models.options_for(name) for name in models.MODELS}
    data_models: dict[str, type[BaseModel]] = {name: spec.options_for(name) for name in spec.known_names()}
    every: list[type[BaseModel]] = [RecipeModel, StageKeywords, Gate, models.options_for("file.py:factory")]
    every += [spec.options_for("file.py:factory")]
    for group in (stage_models, model_models, data_models):
        every += group.values()
    unique = list(dict.fromkeys(every))
    refs, definitions = models_json_schema([(model, "validation") for model in unique])
    found = {model: refs[(model, "validation")] for model in unique}
    defs = {name: _with_variables(one) for name, one in definitions["$defs"].items()}
    root: Schema = defs.pop(_name(found[RecipeModel]))
    keywords: Schema = defs.pop(_name(found[StageKeywords]))["properties"]
    keywords["gates"]["anyOf"] = [{"type": "array", "items": found[Gate]}, {"type": "null"}]
    properties = root["properties"]
    properties["vars"] = {"type": "object", "description": properties["vars"].get("description", "")}
    properties["model"] = _by_name(model_models, found, found[models.options_for("file.py:factory")])
    properties["data"] = _by_name(data_models, found, found[spec.options_for("file.py:factory")])
    properties["stages"]["items"] = _stage_items(stage_models, found, keywords, stages)
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "mcomp recipe",
        **{key: value for key, value in root.items() if key not in ("title", "description")},
        "$defs": {**defs, "variable": _VARIABLE},
    }


def _name(ref: Mapping[str, Any]) -> str:
    return str(ref["$ref"]).rpartition("/")[2]


def _by_name(known: Mapping[str, type[BaseModel]], found: Mapping[Any, Any], other: Schema) -> Schema:
    """One branch per known name; a name with a colon is torchvision's, timm's or the user's own."""
    branches = [
        {"if": {"properties": {"name": {"const": name}}, "required": ["name"]}, "then": found[model]}
        for name, model in known.items()
    ]
    names = {"properties": {"name": {"anyOf": [{"enum": list(known)}, {"pattern": ":"}, _USE]}}}
    colon = {"if": {"properties": {"name": {"pattern": "^[^$]*:"}}, "required": ["name"]}, "then": other}
    return {"type": "object", "required": ["name"], "allOf": [names, *branches, colon]}


def _stage_items(
    models: Mapping[str, type[BaseModel]], found: Mapping[Any, Any], keywords: Schema, registry: Any
) -> Schema:
    usable = {name: one for name, one in keywords.items() if name not in LATER_KEYWORDS}
    bare = [name for name, model in models.items() if not any(one.is_required() for one in model.model_fields.values())]
    items: list[Schema] = [{"enum": bare}]
    for name, model in models.items():
        options: Schema = {"anyOf": [found[model], {"type": "null"}]} if name in bare else found[model]
        items.append(
            {
                "type": "object",
                "description": registry.get(name).summary(),
                "properties": {name: options, **usable},
                "required": [name],
                "additionalProperties": False,
            }
        )
    return {"anyOf": items}


def _with_variables(schema: Any) -> Any:
    """Let every value that is not free text also be a variable."""
    if not isinstance(schema, dict):
        return schema
    changed = {key: value for key, value in schema.items() if key not in ("expected", "cache", "path")}
    for key in ("properties", "$defs", "patternProperties"):
        if key in changed:
            changed[key] = {name: _or_variable(one) for name, one in changed[key].items()}
    for key in ("items", "additionalProperties"):
        if isinstance(changed.get(key), dict):
            changed[key] = _or_variable(changed[key])
    for key in _SCHEMA_KEYS:
        if key in changed:
            changed[key] = [_with_variables(one) for one in changed[key]]
    return changed


def _or_variable(schema: Any) -> Any:
    inner = _with_variables(schema)
    if not isinstance(inner, dict):
        return inner
    if "anyOf" in inner:
        return {**inner, "anyOf": [*inner["anyOf"], _USE]}
    if not inner.keys() & {"type", "$ref", "enum", "const", "oneOf", "allOf"}:
        return inner  # anything goes already
    about = {key: inner.pop(key) for key in ("description", "title", "default", "examples") if key in inner}
    return {**about, "anyOf": [inner, _USE]}
