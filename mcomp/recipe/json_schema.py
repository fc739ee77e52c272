"""The JSON schema of a recipe (draft 2020-12), for editors: the same models that validation uses.

It refuses nothing that validation accepts, with one exception: a wrong value that the same file then replaces, by an
``override`` or by every point of a ``sweep``. What it cannot say is left to validation: that an id exists, that stages
fit one another, what a stage checks of its own options, that ``8.0`` is no whole number.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from mcomp.recipe.conditions import When
from mcomp.recipe.gates import Gate
from mcomp.recipe.json_schema_rules import GATE_RULES, KEYWORD_RULES, WHEN_RULES, not_swept, without
from mcomp.recipe.json_schema_stages import StageShape, stage_definitions
from mcomp.recipe.json_schema_variables import USE, VARIABLE, with_variables
from mcomp.recipe.schema import COMPOSING, RecipeModel, StageKeywords

Schema = dict[str, Any]
Group = dict[str, type[BaseModel]]

_USERS_OWN = "file.py:factory"
_STAGE = {"$ref": "#/$defs/stage"}


def recipe_json_schema(*, complete: bool = False) -> Schema:
    """The schema of a recipe with every stage, model and data set known here.

    A value may everywhere be a variable, ``"${name}"``, instead of what its own schema asks for.

    Args:
        complete: the plug-ins of the recipe are loaded, so that no other stage can be meant, even by a recipe that
            names plug-ins or extends one that may.
    """
    from mcomp.data import spec
    from mcomp.models import registry as models
    from mcomp.stages import registry as stages

    stage_group: Group = {name: stages.get(name).Options for name in stages.names()}
    model = _Origin({name: models.options_for(name) for name in models.MODELS}, models.options_for(_USERS_OWN))
    data = _Origin({name: spec.options_for(name) for name in spec.known_names()}, spec.options_for(_USERS_OWN))
    every: list[type[BaseModel]] = [RecipeModel, StageKeywords, Gate, When, model.other, data.other]
    defined = _Definitions([*every, *stage_group.values(), *model.known.values(), *data.known.values()])
    defined.of(Gate)["allOf"] = GATE_RULES
    defined.of(When)["allOf"] = WHEN_RULES
    shapes = {
        name: StageShape(defined.ref(options), defined.loosened(options), stages.get(name).summary())
        for name, options in stage_group.items()
    }
    keywords = defined.taken(StageKeywords)
    keywords["properties"]["gates"]["anyOf"][0] = {"type": "array", "items": {"anyOf": [defined.ref(Gate), USE]}}
    keywords["properties"]["otherwise"]["$ref"] = "#/$defs/alternative"
    described = {"properties": keywords["properties"], "allOf": KEYWORD_RULES}
    root = defined.taken(RecipeModel)
    properties = root["properties"] | _composing(defined, keywords["properties"])
    properties["stages"]["items"] = _STAGE
    for key, origin in (("model", model), ("data", data)):
        about = {"description": properties[key]["description"]}
        properties[key] = about | {"anyOf": [{"type": "object", "allOf": _by_name(origin, defined)}, USE]}
        defined.named[f"whole_{key}"] = _whole_origin(origin, defined)
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "mcomp recipe",
        "type": "object",
        "additionalProperties": False,
        "properties": properties,
        "allOf": _whole_recipe(complete=complete),
        "$defs": {
            **defined.named,
            **stage_definitions(shapes, described, complete=complete),
            "variable": VARIABLE,
        },
    }


@dataclass(frozen=True)
class _Origin:
    """What may stand under ``model`` or ``data``: options by name, and those of torchvision's, timm's or one's own."""

    known: Group
    other: type[BaseModel]


class _Definitions:
    """The schemas of all models, by the names that references use."""

    def __init__(self, models: list[type[BaseModel]]) -> None:
        unique = list(dict.fromkeys(models))
        refs, found = models_json_schema([(model, "validation") for model in unique])
        self._refs = {model: refs[(model, "validation")] for model in unique}
        self._required: dict[type[BaseModel], list[str]] = {}
        self.raw: dict[str, Schema] = found["$defs"]
        self.named: dict[str, Schema] = {name: with_variables(one) for name, one in self.raw.items()}

    def ref(self, model: type[BaseModel]) -> Schema:
        """A reference to a model's definition."""
        return dict(self._refs[model])

    def of(self, model: type[BaseModel]) -> Schema:
        """The definition itself."""
        return self.named[self.name(model)]

    def name(self, model: type[BaseModel]) -> str:
        """What the definition is called."""
        return str(self._refs[model]["$ref"]).rpartition("/")[2]

    def taken(self, model: type[BaseModel]) -> Schema:
        """The definition, which is no longer kept: it is written out in one place."""
        return self.named.pop(self.name(model))

    def loosened(self, model: type[BaseModel]) -> list[str]:
        """The names that the definition requires, and from now on does not."""
        if model not in self._required:
            self._required[model] = self.of(model).pop("required", [])
        return self._required[model]


def _composing(defined: _Definitions, keywords: Schema) -> Schema:
    """`vars`, and the keys that compose recipes: they are gone before variables are filled in."""
    raw = defined.raw[defined.name(RecipeModel)]["properties"]
    found = {key: raw[key] for key in ("vars", *COMPOSING)}
    for name in ("Insertion", "Sweep"):
        defined.named[name] = defined.raw[name]
    defined.named["Insertion"]["properties"]["stages"]["items"] = _STAGE
    changes = {"type": "object", "properties": keywords}
    found["override"]["anyOf"][0]["additionalProperties"] = changes
    return found


def _by_name(origin: _Origin, defined: _Definitions) -> list[Schema]:
    """One branch per known name; a name with a colon is torchvision's, timm's or the user's own."""
    for model in (*origin.known.values(), origin.other):
        defined.loosened(model)
    names = {"properties": {"name": {"anyOf": [{"enum": list(origin.known)}, {"type": "string", "pattern": ":"}, USE]}}}
    colon = {"properties": {"name": {"type": "string", "pattern": "^[^$]*:"}}, "required": ["name"]}
    branches = [{"if": _named(name), "then": defined.ref(model)} for name, model in origin.known.items()]
    return [names, *branches, {"if": colon, "then": defined.ref(origin.other)}]


def _whole_origin(origin: _Origin, defined: _Definitions) -> Schema:
    """Nothing is missing under ``model`` or ``data``."""
    branches = [
        {"if": _named(name), "then": {"required": defined.loosened(model)}} for name, model in origin.known.items()
    ]
    return {"if": {"type": "object"}, "then": {"required": ["name"], "allOf": branches}}


def _named(name: str) -> Schema:
    return {"properties": {"name": {"const": name}}, "required": ["name"]}


def _whole_recipe(*, complete: bool) -> list[Schema]:
    """What has to be there, unless a base, an override or a sweep may bring it."""

    def stages(kind: str) -> Schema:
        items = {"items": {"$ref": f"#/$defs/{kind}"}}
        return {"stages": items, "insert": {"items": {"properties": {"stages": items}}}}

    rules: list[Schema] = [{"if": without("extends"), "then": {"required": ["version"]}}]
    for section in ("model", "data"):
        whole = {"required": [section], "properties": {section: {"$ref": f"#/$defs/whole_{section}"}}}
        rules.append({"if": {"allOf": [without("extends"), not_swept(section)]}, "then": whole})
    here = [without("extends"), not_swept("stages")]
    rules += [
        {"if": {"allOf": here}, "then": {"required": ["stages"]}},
        {"if": {"allOf": [*here, without("override")]}, "then": {"properties": stages("whole_stage")}},
    ]
    if not complete:
        rules.append({"if": without("extends", "plugins"), "then": {"properties": stages("known_stage")}})
    return rules
