"""Pydantic's errors to diagnostics: one per fault, at the characters that hold it, in plain words."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel, ValidationError

from mcomp.recipe.diagnostics import Faults, shown
from mcomp.recipe.schema_walk import expected_at, limits_at, names_at
from mcomp.recipe.tree import ListNode, MapEntry, MapNode, Mark, Node, ScalarNode, is_poisoned
from mcomp.suggest import closest, did_you_mean, listed

Path = tuple[str | int, ...]

_TYPES = {
    "int_type": "a whole number",
    "int_from_float": "a whole number",
    "int_parsing": "a whole number",
    "float_type": "a number",
    "float_parsing": "a number",
    "string_type": "text",
    "bool_type": "true or false",
    "bool_parsing": "true or false",
    "list_type": "a list (`[…]`)",
    "dict_type": "a mapping (`{key: value}`)",
    "model_type": "a mapping (`{key: value}`)",
    "model_attributes_type": "a mapping (`{key: value}`)",
    "none_required": "left out",
}
_LIMITS = {
    "greater_than": "greater than {gt}",
    "greater_than_equal": "at least {ge}",
    "less_than": "less than {lt}",
    "less_than_equal": "at most {le}",
    "multiple_of": "a multiple of {multiple_of}",
    "string_too_short": "at least {min_length} characters long",
    "string_too_long": "at most {max_length} characters long",
    "string_pattern_mismatch": "of the form `{pattern}`",
    "too_short": "at least {min_length} long",
    "too_long": "at most {max_length} long",
}
#: Words that YAML 1.1 took for true and false.
LIKE_YES = re.compile(r"(?:yes|no|on|off|y|n)", re.IGNORECASE)
_PERCENT = re.compile(r"(\d+(?:\.\d+)?)\s*%")


#: Words for what has another name here; `gpu` is a letter away from `cpu`, which is not meant.
_OTHER_WORDS = {"gpu": "cuda", "trt": "tensorrt", "ort": "onnxruntime"}
_MOST_NAMES = 20  # as many as the top level of a recipe has


@dataclass(frozen=True)
class Section:
    """A part of the recipe that one pydantic model describes.

    Attributes:
        what: for messages, e.g. ``stage `prune` ``.
        node: its values; None where nothing is written, so that every option has its default.
        key: the characters that name the section.
        model: the pydantic model.
        hint: where its options are listed.
        noun: what its keys are called.
    """

    what: str
    node: MapNode | None
    key: Mark
    model: type[BaseModel]
    hint: str = ""
    noun: str = "option"


@dataclass(frozen=True)
class _Fault:
    """One pydantic error, placed in the tree. ``branch`` is the union member it came from."""

    kind: str
    context: Mapping[str, Any]
    message: str
    path: Path
    branch: tuple[Path, str] | None

    @property
    def is_type(self) -> bool:
        return self.kind in _TYPES or self.kind in ("literal_error", "enum")


def report(error: ValidationError, section: Section, faults: Faults) -> None:
    """Record every fault of a section."""
    placed = [_place(one, section.node) for one in error.errors(include_url=False)]
    chosen = _one_per_union(placed)
    unknown = [one for one in chosen if one.kind == "extra_forbidden"]
    missing = [one for one in chosen if one.kind == "missing"]
    for one in unknown:
        _unknown(one.path, section, faults)
    _missing(missing, [one.path for one in unknown], section, faults)
    groups: dict[Path, list[_Fault]] = {}
    for one in chosen:
        if one.kind not in ("extra_forbidden", "missing"):
            groups.setdefault(one.path, []).append(one)
    for path, group in groups.items():
        _wrong_value(path, group, section, faults)


def _place(error: Any, root: Node | None) -> _Fault:
    """Walk pydantic's location down the tree; steps that the tree lacks name members of a union."""
    path: list[str | int] = []
    branch = None
    node = root
    steps = error["loc"]
    for place, step in enumerate(steps):
        last = place == len(steps) - 1
        below = _below(node, step)
        if below is not None:
            path.append(step)
            node = below
        elif last and error["type"] == "missing":
            path.append(step)
        elif branch is None and step != "[key]":
            branch = (tuple(path), str(step))
    return _Fault(error["type"], error.get("ctx", {}), error["msg"], tuple(path), branch)


def _below(node: Node | None, step: str | int) -> Node | None:
    if isinstance(node, MapNode) and isinstance(step, str):
        return node.get(step)
    if isinstance(node, ListNode) and isinstance(step, int) and step < len(node.items):
        return node.items[step]
    return None


def _one_per_union(found: Sequence[_Fault]) -> list[_Fault]:
    """Of a union's members keep the one that the value was meant to be."""
    kept = [one for one in found if one.branch is None]
    unions: dict[Path, dict[str, list[_Fault]]] = {}
    for one in found:
        if one.branch is not None:
            at, tag = one.branch
            unions.setdefault(at, {}).setdefault(tag, []).append(one)
    for at, members in unions.items():
        apart = [group for group in members.values() if not any(one.is_type and one.path == at for one in group)]
        deeper = [group for group in apart if any(one.path != at or one.kind == "missing" for one in group)]
        if deeper:
            kept += sorted(deeper, key=len)[0]
        else:
            literals = [one for group in members.values() for one in group if one.kind in ("literal_error", "enum")]
            limits = [one for group in apart for one in group]
            kept += [*limits, *literals] if limits else [one for group in members.values() for one in group]
    return kept


def _entry(section: Section, path: Path) -> tuple[Mark, Node | None]:
    """The key's mark and the value at a path; the section's own where the path is empty."""
    mark = section.key
    node: Node | None = section.node
    for step in path:
        if isinstance(node, MapNode) and isinstance(step, str):
            entry: MapEntry | None = node.entries.get(step)
            if entry is None:
                return mark, None
            mark, node = entry.key, entry.value
        elif isinstance(node, ListNode) and isinstance(step, int) and step < len(node.items):
            node = node.items[step]
            mark = node.mark
        else:
            return mark, None
    return mark, node


def _unknown(path: Path, section: Section, faults: Faults) -> None:
    mark, node = _entry(section, path)
    if node is not None and node.poisoned and mark.source.kind == "file" and faults.full:
        return
    name, parent = str(path[-1]), path[:-1]
    known = names_at(section.model, parent)
    label = did_you_mean(name, known)
    where = f"in `{dotted(parent)}` of {section.what}" if parent else f"for {section.what}"
    hint = section.hint
    if not label and (parent or not hint):
        hint = f"known: {listed(known, _MOST_NAMES)}" if known else hint
    faults.error("MC103", f"unknown {section.noun} `{shown(name)}` {where}", mark, label=label, hint=hint)


def _missing(missing: Sequence[_Fault], unknown: Sequence[Path], section: Section, faults: Faults) -> None:
    """One diagnostic per mapping that lacks something, unless it is there under a misspelled name."""
    lacking: dict[Path, list[str]] = {}
    for one in missing:
        parent, name = one.path[:-1], str(one.path[-1])
        _, holder = _entry(section, parent)
        if isinstance(holder, MapNode) and name in holder.entries:
            continue  # it is there, and was reported already
        known = names_at(section.model, parent)
        if any(other[:-1] == parent and closest(str(other[-1]), known) == name for other in unknown):
            continue
        lacking.setdefault(parent, []).append(f"`{name}`{one.context.get('instead', '')}")
    for parent, names in lacking.items():
        mark, _ = _entry(section, parent)
        what = f"`{dotted(parent)}` of {section.what}" if parent else section.what
        nouns = section.noun if len(names) == 1 else f"{section.noun}s"
        faults.error("MC105", f"{what} needs the {nouns} {' and '.join(names)}", mark, hint=section.hint)


def _wrong_value(path: Path, group: Sequence[_Fault], section: Section, faults: Faults) -> None:
    mark, node = _entry(section, path)
    if node is not None and is_poisoned(node):
        return
    if node is not None and path:
        mark = node.mark
    first = group[0]
    name = f"`{dotted(path)}`" if path else section.what
    if not all(one.is_type or one.kind in _LIMITS or one.kind == "finite_number" for one in group):
        text = next(_sentence(one) for one in group if not one.is_type)
        faults.error("MC104", f"{name}: {text}", mark, hint=_used_at(node))
        return
    wanted = expected_at(section.model, path) or " or ".join(
        dict.fromkeys(_wanted(one, path, section) for one in group)
    )
    label = ""
    if isinstance(node, ScalarNode) and isinstance(node.value, str):
        choices = [choice for one in group for choice in _choices(one)]
        other = _OTHER_WORDS.get(node.value.lower())
        label = did_you_mean(other if other in choices else node.value, choices)
    hint = "; ".join(part for part in (_repair(first, node), _used_at(node)) if part)
    faults.error("MC104", f"{name} must be {wanted}, got {got(node)}", mark, label=label, hint=hint)


def _wanted(fault: _Fault, path: Path, section: Section) -> str:
    if fault.kind in ("literal_error", "enum"):
        choices = _choices(fault)
        text = ", ".join(f"`{choice}`" for choice in choices)
        return text if len(choices) == 1 else f"one of {text}"
    if fault.kind in _TYPES:
        return _TYPES[fault.kind]
    limits = limits_at(section.model, path)
    if fault.kind == "finite_number":
        return f"a number {limits}" if limits else "a finite number"
    if limits and fault.kind.startswith(("greater", "less")):
        return limits
    return _LIMITS[fault.kind].format(**fault.context)


def _choices(fault: _Fault) -> list[str]:
    if fault.kind not in ("literal_error", "enum"):
        return []
    return [one.strip("'") for one in re.split(r", | or ", str(fault.context.get("expected", "")))]


def _sentence(fault: _Fault) -> str:
    text = fault.message.removeprefix("Value error, ").removeprefix("Assertion failed, ")
    return text if fault.kind in ("value_error", "assertion_error") else text[:1].lower() + text[1:]


def _repair(fault: _Fault, node: Node | None) -> str:
    """The usual slip behind a wrong type."""
    if not isinstance(node, ScalarNode):
        return ""
    value = node.value
    if fault.kind == "string_type" and value is not None:
        return "put it in quotes"
    if isinstance(value, str) and fault.kind == "bool_type" and LIKE_YES.fullmatch(value):
        return "YAML 1.2 knows only `true` and `false`"
    if isinstance(value, str) and node.quoted and fault.kind in ("int_type", "float_type", "bool_type"):
        return "remove the quotes"
    if isinstance(value, str) and fault.kind == "float_type" and (percent := _PERCENT.fullmatch(value)):
        return f"write `{float(percent[1]) / 100:g}`"
    if isinstance(value, float) and fault.kind in ("int_type", "int_from_float") and value.is_integer():
        return f"write `{value:.0f}`"
    return ""


def _used_at(node: Node | None) -> str:
    if isinstance(node, ScalarNode) and node.via is not None:
        return f"the value is used at {node.via}"
    return ""


def got(node: Node | None) -> str:
    """A value as a person would name it."""
    if node is None:
        return "nothing"
    if isinstance(node, ListNode):
        return f"a list of {len(node.items)}"
    if isinstance(node, MapNode):
        return "a mapping"
    if node.value is None:
        return "nothing"
    if isinstance(node.value, float) and math.isnan(node.value):
        return f"`{node.text}` (not a number)"
    if isinstance(node.value, str):
        return f'the text "{shown(node.text)}"'
    return shown(node.text)


def dotted(path: Path) -> str:
    """``calibration.samples``, ``milestones[1]``."""
    text = ""
    for step in path:
        text += f"[{step}]" if isinstance(step, int) else f".{shown(step)}" if text else shown(step)
    return text
