"""Which values are paths, and what they are relative to.

A path of the recipe file is relative to that file, and one of a file that it extends to that other file; one given
with ``--set`` to the current folder. All but the first are made absolute at once, and so is that one where a stage
has it, which knows no recipe. ``~`` is a person's home in each.
An option says that it is a path with ``Field(json_schema_extra={"path": True})``, at whatever depth it stands.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any, TypeVar, get_args

from pydantic import BaseModel

from mcomp.recipe.tree import ListNode, MapNode, Node, ScalarNode

#: Options of models and data sets that are paths.
WELL_KNOWN = frozenset({"weights", "root"})

#: Names from an option down to a path; ``ANY`` stands for every key of a mapping, items of a list take no step.
Steps = tuple[str, ...]
ANY = "*"
M = TypeVar("M", bound=BaseModel)


@lru_cache(maxsize=256)
def path_options(model: type[BaseModel], known: frozenset[str] = frozenset()) -> frozenset[Steps]:
    """Where below a model the options are that hold a path."""
    return frozenset(_paths(model, known, ()))


def _paths(model: type[BaseModel], known: frozenset[str], inside: tuple[type[BaseModel], ...]) -> Iterator[Steps]:
    if model in inside:
        return  # a model that holds itself
    for name, info in model.model_fields.items():
        extra = info.json_schema_extra
        written = info.alias or name
        if name in known or (isinstance(extra, dict) and extra.get("path")):
            yield (written,)
        for steps, below in _models(info.annotation):
            yield from ((written, *steps, *rest) for rest in _paths(below, frozenset(), (*inside, model)))


def _models(annotation: Any) -> Iterator[tuple[Steps, type[BaseModel]]]:
    """The models inside an annotation, through unions, lists and the values of mappings."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield (), annotation
        return
    keyed = getattr(annotation, "__origin__", None) is dict
    for argument in get_args(annotation):
        for steps, model in _models(argument):
            yield ((ANY, *steps) if keyed else steps), model


def anchor_sets(node: Node | None, paths: Iterable[Steps], folder: Path) -> None:
    """Make the paths of a section absolute that are below a home, or come from elsewhere than the recipe itself.

    Args:
        node: the section; changed in place.
        paths: as :func:`path_options` gives them.
        folder: the current one, for what ``--set`` put there.
    """
    for steps in paths:
        for found in _at(node, steps):
            anchor_set(found, folder)


def _at(node: Node | None, steps: Steps) -> Iterator[Node]:
    if node is None:
        return
    if not steps:
        yield node
    elif isinstance(node, ListNode):
        for item in node.items:
            yield from _at(item, steps)
    elif isinstance(node, MapNode):
        below = [one.value for one in node.entries.values()] if steps[0] == ANY else [node.get(steps[0])]
        for one in below:
            yield from _at(one, steps[1:])


def anchor_set(node: Node, folder: Path) -> None:
    """The same for a single value, or for each item of a list."""
    if isinstance(node, ListNode):
        for item in node.items:
            anchor_set(item, folder)
    elif isinstance(node, ScalarNode) and isinstance(node.value, str):
        source = node.mark.source
        start = source.folder or (folder if source.kind == "set" else None)
        node.value = os.path.expanduser(node.value) if start is None else anchored(node.value, start)


def anchored(text: str, folder: Path) -> str:
    """``text`` below ``folder``; of ``file.py:factory`` the file. Other names with a colon are left alone."""
    text = os.path.expanduser(text)
    file, colon, function = text.rpartition(":")
    if colon and file.endswith(".py"):
        return f"{folder / file}:{function}"
    return text if colon and "/" not in text else str(folder / text)


def absolute(dumped: Any, paths: Iterable[Steps], base: Path) -> Any:
    """Dumped options with their paths made absolute, so that they mean the same from any folder."""
    for steps in paths:
        dumped = _absolute(dumped, steps, base)
    return dumped


def anchored_options(options: M, base: Path) -> M:
    """Validated options with their paths made absolute, at any depth."""
    update: dict[str, Any] = {}
    for name, info in type(options).model_fields.items():
        value, extra = getattr(options, name), info.json_schema_extra
        if isinstance(extra, dict) and extra.get("path"):
            update[name] = _absolute(value, (), base)
        elif isinstance(value, BaseModel):
            update[name] = anchored_options(value, base)
        elif isinstance(value, list):
            update[name] = [anchored_options(item, base) if isinstance(item, BaseModel) else item for item in value]
        elif isinstance(value, dict):
            update[name] = {
                key: anchored_options(item, base) if isinstance(item, BaseModel) else item
                for key, item in value.items()
            }
    changed = {name: value for name, value in update.items() if value != getattr(options, name)}
    return options.model_copy(update=changed) if changed else options


def _absolute(value: Any, steps: Steps, base: Path) -> Any:
    if isinstance(value, list):
        return [_absolute(item, steps, base) for item in value]
    if not steps:
        return anchored(value, base) if isinstance(value, str) else value
    if not isinstance(value, dict):
        return value
    names = value if steps[0] == ANY else value.keys() & {steps[0]}
    return {key: _absolute(one, steps[1:], base) if key in names else one for key, one in value.items()}
