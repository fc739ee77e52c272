"""``vars``: ``"${ratio}"`` alone keeps its type, inside other text it is written out."""

from __future__ import annotations

import re

from mcomp.recipe.diagnostics import Faults, shown
from mcomp.recipe.loader import MAX_BYTES, MAX_NODES
from mcomp.recipe.tree import (
    ListNode,
    MapEntry,
    MapNode,
    Mark,
    Node,
    ScalarNode,
    characters,
    clone,
    count,
    is_null,
    walk,
)
from mcomp.suggest import closest, listed

_USE = re.compile(r"\$\$\{|\$\{([^{}]*)\}|\$\{")
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
#: Keys beside `vars`.
TOP_LEVEL = ("version", "name", "seed", "model", "data", "stages", "device", "precision", "plugins", "metadata")
ESCAPED, PLAIN = "$${", "${"


def used(root: Node) -> set[str]:
    """Names of the variables that occur anywhere below ``root``."""
    texts = (node.value for node in walk(root) if isinstance(node, ScalarNode))
    return {found[1] for text in texts if isinstance(text, str) for found in _USE.finditer(text) if found[1]}


def variable_of(node: Node | None) -> str | None:
    """The name of the variable that a value is altogether; None where it is anything else."""
    found = _USE.fullmatch(node.value) if isinstance(node, ScalarNode) and isinstance(node.value, str) else None
    return None if found is None else found[1]


def substitute(root: MapNode, faults: Faults, used_before: set[str]) -> None:
    """Replace every use of a variable below ``root`` and take ``vars`` out of it.

    Args:
        root: the recipe; changed in place.
        faults: receives unknown variables, and unused ones as warnings.
        used_before: variables used before ``--set`` was applied; those are not called unused.
    """
    # a misspelled `vars:` is one fault; its variables would be many
    misspelled = "vars" not in root.entries and any(
        closest(key, (*TOP_LEVEL, "vars")) == "vars" for key in root.entries
    )
    variables = _definitions(root, faults)
    root.entries.pop("vars", None)
    substitution = _Substitution(variables, Faults() if misspelled else faults)
    for entry in root.entries.values():
        entry.value = substitution.apply(entry.value)
    for name, entry in variables.items():
        if name not in substitution.spent and name not in used_before:
            faults.warning("MC108", f"variable `{name}` is never used", entry.key, hint=f'use it as `"${{{name}}}"`')


def _definitions(root: MapNode, faults: Faults) -> dict[str, MapEntry]:
    section = root.get("vars")
    if section is None or is_null(section):
        return {}
    if not isinstance(section, MapNode):
        faults.error("MC104", "`vars` must be a mapping (`name: value`)", section.mark)
        return {}
    found = {}
    for name, entry in section.entries.items():
        if not _NAME.fullmatch(name):
            faults.error(
                "MC108", f"`{shown(name)}` cannot name a variable", entry.key, hint="use letters, digits and `_`"
            )
            continue
        inner = used(entry.value)
        if inner:
            faults.error("MC108", f"variable `{name}` uses a variable; write its value out", entry.value.mark)
            entry.value.poisoned = True
        found[name] = entry
    return found


class _Substitution:
    """Walks a tree and keeps count of the variables it spent."""

    def __init__(self, variables: dict[str, MapEntry], faults: Faults) -> None:
        self._variables = variables
        self._faults = faults
        self.spent: set[str] = set()
        self._nodes = MAX_NODES
        self._characters = MAX_BYTES
        self._costs = {id(one.value): (count(one.value), characters(one.value)) for one in variables.values()}

    def apply(self, node: Node) -> Node:
        if isinstance(node, ListNode):
            node.items = [self.apply(item) for item in node.items]
        elif isinstance(node, MapNode):
            for entry in node.entries.values():
                entry.value = self.apply(entry.value)
        elif isinstance(node.value, str) and PLAIN in node.value:
            return self._scalar(node, node.value)
        return node

    def _scalar(self, node: ScalarNode, text: str) -> Node:
        whole = _USE.fullmatch(text)
        if whole and whole[1] is not None:
            entry = self._find(whole[1], node)
            if entry is None:
                return node
            if not self._afford(entry.value, node):
                return node
            value = clone(entry.value)
            _remember(value, node.mark)
            return value
        node.value = node.text = _USE.sub(lambda found: self._embedded(found, node), text)
        return node

    def _embedded(self, found: re.Match[str], node: ScalarNode) -> str:
        if found[0] == ESCAPED:
            return PLAIN
        if found[1] is None:
            self._fault(node, "`${` is never closed", hint="write `$${` for the two characters themselves")
            return ""
        entry = self._find(found[1], node)
        if entry is None:
            return ""
        value = entry.value
        if not isinstance(value, ScalarNode) or value.value is None:
            kind = (
                "empty" if isinstance(value, ScalarNode) else "a list" if isinstance(value, ListNode) else "a mapping"
            )
            self._fault(node, f"variable `{found[1]}` is {kind} and cannot stand inside text", hint="use it alone")
            return ""
        if not self._afford(value, node):
            return ""
        node.poisoned |= value.poisoned
        return value.text

    def _afford(self, value: Node, node: ScalarNode) -> bool:
        """False once variables, written out, have grown past what a recipe may be."""
        nodes, letters = self._costs[id(value)]
        self._nodes -= nodes
        self._characters -= letters
        if self._nodes >= 0 and self._characters >= 0:
            return True
        if not node.poisoned:
            self._fault(node, f"more than {MAX_NODES} values or 1 MiB of text once variables are filled in")
        return False

    def _find(self, name: str, node: ScalarNode) -> MapEntry | None:
        if name in self._variables:
            self.spent.add(name)
            return self._variables[name]
        near = closest(name, self._variables)
        if near is not None:
            self.spent.add(near)  # it is not unused, it is misspelled
        known = f"known: {listed(self._variables)}" if self._variables else "define it under `vars:`"
        self._fault(
            node,
            f"unknown variable `{shown(name)}`",
            label=f"did you mean `{near}`?" if near else "",
            hint="" if near else known,
        )
        return None

    def _fault(self, node: ScalarNode, message: str, *, label: str = "", hint: str = "") -> None:
        self._faults.error("MC108", message, node.mark, label=label, hint=hint)
        node.poisoned = True


def _remember(value: Node, use: Mark) -> None:
    for node in walk(value):
        if isinstance(node, ScalarNode):
            node.via = use
