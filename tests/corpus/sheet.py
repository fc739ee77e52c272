"""A recipe's text taken apart by PyYAML's own composer, so that positions are not mcomp's word for them.

Every key and value is listed with its place in the text, the names that are allowed there, and the JSON Schema
of the value, taken from the options' declarations.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cache, cached_property
from pathlib import Path
from typing import Any

import yaml
from jsonschema import Draft202012Validator
from pydantic import BaseModel

from mcomp.data import spec
from mcomp.models import registry as models
from mcomp.recipe import Recipe
from mcomp.recipe.gates import Gate
from mcomp.recipe.schema import RecipeModel, StageKeywords
from mcomp.recipe.stage_entries import KEYWORDS
from mcomp.stages import registry as stages

COMPOSITION = ("extends", "override", "drop", "insert", "sweep")


@dataclass(frozen=True)
class Schema:
    """A JSON Schema with the definitions it refers to; an empty one accepts anything."""

    body: dict[str, Any] = field(default_factory=dict)
    definitions: dict[str, Any] = field(default_factory=dict)

    def accepts(self, value: Any) -> bool:
        """Whether a value is allowed."""
        return bool(Draft202012Validator({**self.body, "$defs": self.definitions}).is_valid(value))

    @cached_property
    def choices(self) -> list[dict[str, Any]]:
        """The alternatives, each without references."""
        found, open_ = [], [self.body]
        while open_:
            one = open_.pop(0)
            if "$ref" in one:
                open_.append(self.definitions[one["$ref"].rpartition("/")[2]])
            elif "anyOf" in one:
                open_ += one["anyOf"]
            else:
                found.append(one)
        return found

    @property
    def words(self) -> list[str]:
        """The texts it lists, for a value that is one of several."""
        listed = [word for one in self.choices for word in [*one.get("enum", ()), one.get("const")]]
        return [word for word in listed if isinstance(word, str)]

    @property
    def properties(self) -> dict[str, Schema]:
        """Of a mapping: its keys."""
        return {
            name: Schema(body, self.definitions)
            for one in self.choices
            for name, body in one.get("properties", {}).items()
        }


@cache
def schema_of(model: type[BaseModel]) -> Schema:
    """The schema of an options class."""
    made = model.model_json_schema()
    return Schema(made, made.get("$defs", {}))


@dataclass(frozen=True)
class Spot:
    """One ``key: value`` of the text.

    Attributes:
        path: keys and places from the root.
        key: the composer's node of the key.
        value: and of the value.
        holder: the mapping that holds both.
        names: the keys that are allowed there; empty where any is.
        schema: of the value; None where nothing is declared.
    """

    path: tuple[str | int, ...]
    key: yaml.ScalarNode
    value: yaml.Node
    holder: yaml.MappingNode
    names: frozenset[str]
    schema: Schema | None

    @property
    def name(self) -> str:
        return str(self.key.value)

    @property
    def written(self) -> str | None:
        """The text of a scalar."""
        return str(self.value.value) if isinstance(self.value, yaml.ScalarNode) else None


@dataclass(frozen=True)
class Slot:
    """A mapping that could hold more: where its declared but unwritten options would stand."""

    path: tuple[str | int, ...]
    holder: yaml.Node
    unwritten: dict[str, Schema]


@dataclass(frozen=True)
class StageItem:
    """One entry of ``stages``."""

    place: int
    node: yaml.Node
    uses: str
    mark: yaml.Node

    @property
    def cls(self) -> Any:
        return stage_class(self.uses)


#: Stages of plug-ins, which nobody knows but the recipe that names them.
_PLUGGED: dict[str, Any] = {}


def stage_class(uses: str) -> Any:
    """A stage of mcomp, or of a plug-in of a recipe that was taken apart."""
    return _PLUGGED.get(uses) or stages.get(uses)


class Sheet:
    """One recipe's text."""

    def __init__(self, text: str, file: Path) -> None:
        self.text = text
        self.file = file
        #: every stage of the composed recipe, id to name
        recipe = Recipe.load(file, trust=True)
        self.known = {one.id: one.uses for one in recipe.stages}
        self._plugged = {one.uses: one.cls for one in recipe.stages if one.uses not in stages.names()}
        _PLUGGED.update(self._plugged)
        root = yaml.compose(text, Loader=yaml.SafeLoader)
        assert isinstance(root, yaml.MappingNode)
        self.root = root
        self.top = {str(key.value): (key, value) for key, value in root.value}
        self.spots: list[Spot] = []
        self.slots: list[Slot] = []
        self._top()

    @cached_property
    def stages(self) -> list[StageItem]:
        """The entries of ``stages``, in order; none where all are a base's."""
        found = []
        for place, node in enumerate(self.top["stages"][1].value if "stages" in self.top else ()):
            mark = node
            if isinstance(node, yaml.MappingNode):
                mark = next(key for key, _ in node.value if key.value not in KEYWORDS)
            found.append(StageItem(place, node, str(mark.value), mark))
        return found

    @cached_property
    def ids(self) -> list[str]:
        """The stages' ids; no shipped recipe uses a stage twice without naming it."""
        found = []
        for one in self.stages:
            pairs = one.node.value if isinstance(one.node, yaml.MappingNode) else []
            found.append(next((str(value.value) for key, value in pairs if key.value == "id"), one.uses))
        return found

    @cached_property
    def swept(self) -> set[str]:
        """The paths that the recipe's own sweep sets: what is written there otherwise counts for nothing."""
        ways = self.top["sweep"][1].value if "sweep" in self.top else []
        return {str(path.value) for _, axes in ways for path, _ in axes.value}

    @cached_property
    def changeable(self) -> dict[str, str]:
        """The stages that ``override`` could still name here: ``drop`` comes before it, ``insert`` after it."""
        inserted = self.top["insert"][1].value if "insert" in self.top else []
        added = {
            str(stage.value)
            for item in inserted
            for key, value in item.value
            if key.value == "stages"
            for stage in value.value
        }
        return {name: uses for name, uses in self.known.items() if name not in added}

    @cached_property
    def overridden(self) -> set[str]:
        """The stages that it names already."""
        return {str(key.value) for key, _ in self.top["override"][1].value} if "override" in self.top else set()

    def _top(self) -> None:
        schema = schema_of(RecipeModel)
        names = frozenset({*schema.properties, *COMPOSITION})
        for spot in self._entries(self.root, (), names, schema.properties):
            if spot.name in ("model", "data"):
                self._origin(spot)
            elif spot.name == "stages":
                self._stages()
            elif spot.name == "vars":
                self.spots += self._entries(spot.value, spot.path, frozenset(), {})
            elif spot.name == "override":
                self._overrides(spot)
            self.spots.append(spot)
        absent = {"vars", *self.top, *self.swept}
        unwritten = {name: one for name, one in schema.properties.items() if name not in absent}
        self.slots.append(Slot((), self.root, unwritten))

    def _origin(self, spot: Spot) -> None:
        written = {str(key.value): value for key, value in spot.value.value}
        name = str(written["name"].value)
        options = models.options_for(name) if spot.name == "model" else spec.options_for(name)
        self._mapping(spot.value, spot.path, schema_of(options))

    def _stages(self) -> None:
        properties = schema_of(StageKeywords).properties
        names = frozenset({*stages.names(), *self._plugged, *KEYWORDS})
        for one in self.stages:
            path = ("stages", one.place)
            if isinstance(one.node, yaml.ScalarNode):
                self.slots.append(Slot((*path, one.uses), one.node, dict(schema_of(one.cls.Options).properties)))
                continue
            for spot in self._entries(one.node, path, names, {**properties, one.uses: schema_of(one.cls.Options)}):
                self.spots.append(spot)
                if spot.name == one.uses and isinstance(spot.value, yaml.MappingNode):
                    self._mapping(spot.value, spot.path, schema_of(one.cls.Options))
                elif spot.name == "gates":
                    for place, gate in enumerate(spot.value.value):
                        self._mapping(gate, (*spot.path, place), schema_of(Gate))

    def _overrides(self, spot: Spot) -> None:
        """Under each stage's id its options, and the keywords beside it."""
        for one in self._entries(spot.value, spot.path, frozenset(self.known), {}):
            schema = schema_of(stage_class(self.known[one.name]).Options)
            keywords = {name: body for name, body in schema_of(StageKeywords).properties.items() if name in KEYWORDS}
            names = frozenset({*schema.properties, *KEYWORDS})
            self.spots.append(one)
            self.spots += self._entries(one.value, one.path, names, {**keywords, **schema.properties})

    def _mapping(self, node: yaml.Node, path: tuple[str | int, ...], schema: Schema) -> None:
        properties = schema.properties
        written = set()
        for spot in self._entries(node, path, frozenset(properties), properties):
            written.add(spot.name)
            self.spots.append(spot)
            if isinstance(spot.value, yaml.MappingNode) and spot.schema is not None:
                self._mapping(spot.value, spot.path, spot.schema)
        self.slots.append(Slot(path, node, {name: one for name, one in properties.items() if name not in written}))

    @staticmethod
    def _entries(
        node: yaml.Node, path: tuple[str | int, ...], names: frozenset[str], properties: dict[str, Schema]
    ) -> Iterator[Spot]:
        for key, value in node.value:
            name = str(key.value)
            yield Spot((*path, name), key, value, node, names, properties.get(name))

    def span(self, node: yaml.Node) -> tuple[int, int]:
        """Where a node's characters start and end; a block's end is the end of its last line."""
        start, end = node.start_mark.index, node.end_mark.index
        return start, start + len(self.text[start:end].rstrip())

    def replaced(self, node: yaml.Node, new: str) -> str:
        """The text with one node written differently."""
        start, end = self.span(node)
        return self.text[:start] + new + self.text[end:]

    def with_value(self, spot: Spot, new: str) -> tuple[str, int]:
        """The text with a value written in flow style, and where that value starts."""
        _, end = self.span(spot.value)
        start = spot.key.end_mark.index
        return f"{self.text[:start]}: {new}{self.text[end:]}", start + 2

    def with_entry(self, holder: yaml.Node, name: str, new: str) -> tuple[str, int]:
        """The text with another ``name: new`` in front of a mapping's first, and where that entry starts."""
        start, end = self.span(holder)
        if isinstance(holder, yaml.ScalarNode):  # a bare stage
            head = f"{self.text[start:end]}: {{"
            return f"{self.text[:start]}{head}{name}: {new}}}{self.text[end:]}", start + len(head)
        if holder.flow_style:
            comma = ", " if holder.value else ""
            return f"{self.text[: start + 1]}{name}: {new}{comma}{self.text[start + 1 :]}", start + 1
        indent = " " * holder.start_mark.column
        return f"{self.text[:start]}{name}: {new}\n{indent}{self.text[start:]}", start

    def with_keyword(self, item: StageItem, name: str, new: str) -> tuple[str, int]:
        """The text with a keyword below a stage, and where its entry starts."""
        indent = " " * (item.mark.start_mark.column)
        end = self.span(item.node)[1]
        colon = ":" if isinstance(item.node, yaml.ScalarNode) else ""
        added = f"{colon}\n{indent}"
        return f"{self.text[:end]}{added}{name}: {new}{self.text[end:]}", end + len(added)


def place_of(text: str, index: int) -> tuple[int, int]:
    """Line and column, from 1."""
    before = text[:index]
    return before.count("\n") + 1, index - (before.rfind("\n") + 1) + 1
