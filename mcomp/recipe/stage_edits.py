"""``drop``, ``override`` and ``insert``: a list of stages changed by the ids of its stages.

A stage keeps the id it had: one that was named after its number, as ``train_2``, is still called so when the first
``train`` is dropped.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass

from mcomp.recipe.diagnostics import Faults, shown
from mcomp.recipe.overlay import deep
from mcomp.recipe.sets import opened
from mcomp.recipe.stage_entries import KEYWORDS, MAX_STAGES, is_stage, outline
from mcomp.recipe.translate import got
from mcomp.recipe.tree import ListNode, MapEntry, MapNode, Mark, Node, ScalarNode, is_null
from mcomp.recipe.variables import variable_of
from mcomp.suggest import closest, did_you_mean, listed

EDITS = ("drop", "override", "insert")
_PLACES = ("after", "before")
_ITEM = "{after: train, stages: [prune: {ratio: 0.4}]}"
_ITEM_HINT = f"e.g. `{_ITEM}`"


@dataclass(eq=False)  # two stages may be written alike
class _Item:
    """One stage while the list is changed."""

    node: Node
    id: str
    uses: str | None


def edit_stages(root: MapNode, faults: Faults, gone: dict[str, str]) -> bool:
    """Take the three keys out of ``root`` and change its stages by them.

    Args:
        root: the recipe; changed in place.
        faults: receives what is wrong.
        gone: receives the ids that no stage has any more, each with what became of it.

    Returns:
        False, with the reasons recorded, where the list is not what the recipe asks for.
    """
    edits = {key: root.entries.pop(key) for key in EDITS if key in root.entries}
    edits = {key: entry for key, entry in edits.items() if not is_null(entry.value)}
    if not edits:
        return True
    stages = root.get("stages")
    if stages is None or is_null(stages):
        for key, entry in edits.items():
            faults.error("MC124", f"`{key}` changes stages, and neither this file nor a base has any", entry.key)
        return False
    name = variable_of(stages)
    if name is not None:
        for key, entry in edits.items():
            message = f"`{key}` changes stages, and the list of them is the variable `{shown(name)}`"
            faults.error("MC124", message, entry.key, hint="variables are filled in later; write the list out")
    if not isinstance(stages, ListNode):
        return False  # said when the stages are validated
    return _Edit(stages, root, faults, gone).run(edits)


class _Edit:
    """The list as items that know their ids, until it is put together again."""

    def __init__(self, stages: ListNode, root: MapNode, faults: Faults, gone: dict[str, str]) -> None:
        self._faults = faults
        self._gone = gone
        self._sound = True
        self._items = [_Item(one.node, one.id, one.uses) for one in outline(stages)]
        self._dropped: set[str] = set()
        self._next: dict[str, int] = {}  # number of the next stage of a kind that has no id of its own
        self._result = ListNode([], stages.mark, stages.poisoned)
        root.entries["stages"] = MapEntry(root.entries["stages"].key, self._result)

    def run(self, edits: dict[str, MapEntry]) -> bool:
        stages_were = bool(self._items)
        if "drop" in edits:
            self._drop(edits["drop"].value)
        if "override" in edits:
            self._override(edits["override"].value)
        if "insert" in edits:
            self._insert(edits["insert"].value)
        if stages_were and not self._items and "drop" in edits:
            self._fault("MC124", "`drop` takes out every stage, and a recipe needs one", edits["drop"].key)
        self._result.items = [one.node for one in self._items]
        self._keep_ids()
        return self._sound

    def _drop(self, node: Node) -> None:
        if not isinstance(node, ListNode):
            self._wrong(f"`drop` must be a list of stage ids, got {got(node)}", node, "e.g. `drop: [bn_fuse]`")
            return
        for one in node.items:
            item = self._find("drop", one)
            if item is not None:
                self._items.remove(item)
                self._dropped.add(item.id)
                self._gone[item.id] = f"`drop` ({one.mark.place}) takes `{item.id}` out"

    def _override(self, node: Node) -> None:
        if not isinstance(node, MapNode):
            self._wrong(
                f"`override` must be a mapping from stage ids to options, got {got(node)}",
                node,
                "e.g. `override: {prune: {ratio: 0.5}}`",
            )
            return
        # all of them are looked up before the first is changed: an override may give a stage the id of another
        found = [
            (name, entry, self._find("override", ScalarNode(name, entry.key, name)))
            for name, entry in node.entries.items()
        ]
        for name, entry, item in found:
            if item is None or item.uses is None:
                continue
            if isinstance(entry.value, MapNode):
                self._keyword_typos(item.uses, entry.value)
                self._change(item, item.uses, entry.value)
            else:
                message = f"`override` of stage `{shown(name)}` must be a mapping of options, got {got(entry.value)}"
                self._wrong(message, entry.value, f"e.g. `{shown(name)}: {{option: value}}`")

    def _keyword_typos(self, uses: str, over: MapNode) -> None:
        """Options and keywords stand side by side here, so a misspelled keyword looks like an option."""
        from mcomp.stages import registry

        known = registry.get(uses).Options.model_fields if is_stage(uses) else {}
        for key in [key for key in over.entries if key not in (*known, *KEYWORDS)]:
            label = did_you_mean(key, KEYWORDS)
            if known and label and closest(key, known) is None:
                entry = over.entries.pop(key)
                message = f"unknown option or keyword `{shown(key)}` for stage `{uses}`"
                self._faults.error("MC103", message, entry.key, label=label)
                if closest(key, KEYWORDS) not in ("gates", "seed", "cache"):
                    self._sound = False  # the others decide what the stages behind it get

    def _change(self, item: _Item, uses: str, over: MapNode) -> None:
        before = opened(item.node)
        changed = MapNode(before.mark, dict(before.entries), before.poisoned)
        options = {key: entry for key, entry in over.entries.items() if key not in KEYWORDS}
        changed.entries |= {key: entry for key, entry in over.entries.items() if key in KEYWORDS}
        held = before.entries[uses]
        name = variable_of(held.value)
        if options and name is not None:
            message = (
                f"`override` changes options of stage `{uses}` ({held.key.place}) that are the variable `{shown(name)}`"
            )
            first = next(iter(options.values())).key
            self._faults.error("MC124", message, first, hint="variables are filled in later; write the options out")
        if options and (isinstance(held.value, MapNode) or is_null(held.value)):
            base = held.value if isinstance(held.value, MapNode) else MapNode(held.key)
            changed.entries[uses] = MapEntry(held.key, deep(base, MapNode(base.mark, options)))
        item.node = changed
        explicit = over.get("id")
        if isinstance(explicit, ScalarNode):
            change = f"`override` ({explicit.mark.place}) gives `{shown(item.id)}` the id `{shown(explicit.text)}`"
            self._gone[item.id] = change
            item.id = explicit.text

    def _insert(self, node: Node) -> None:
        if not isinstance(node, ListNode):
            self._wrong(f"`insert` must be a list, got {got(node)}", node, f"e.g. `insert: [{_ITEM}]`")
            return
        last: dict[int, _Item] = {}  # several after one stage stand in the order in which they are written
        for one in node.items:
            if len(self._items) > MAX_STAGES:
                return  # refused as soon as the list is put together
            found = self._place(one)
            if found is None:
                continue
            side, anchor, stages = found
            fresh = list(self._fresh(stages))
            behind = last.get(id(anchor), anchor)
            start = self._items.index(anchor) if side == "before" else self._items.index(behind) + 1
            self._items[start:start] = fresh
            if side == "after" and fresh:
                last[id(anchor)] = fresh[-1]

    def _place(self, node: Node) -> tuple[str, _Item, ListNode] | None:
        """Which side of which stage, and what is to stand there."""
        if not isinstance(node, MapNode):
            self._wrong(f"an item of `insert` must be a mapping, got {got(node)}", node, _ITEM_HINT)
            return None
        known = (*_PLACES, "stages")
        for key, entry in node.entries.items():
            if key not in known:
                label = did_you_mean(key, known)
                self._fault("MC103", f"unknown key `{shown(key)}` in an item of `insert`", entry.key, label, known)
                return None
        sides = [side for side in _PLACES if side in node.entries]
        if len(sides) == 2:
            message = "an item of `insert` has both `after` and `before`; one is enough"
            self._fault("MC105", message, node.mark, hint=_ITEM_HINT)
            return None
        if not sides or "stages" not in node.entries:
            lacking = "`stages`" if sides else "`after` or `before`"
            self._fault("MC105", f"an item of `insert` needs {lacking}", node.mark, hint=_ITEM_HINT)
            return None
        at, stages = node.entries[sides[0]].value, node.entries["stages"].value
        if not isinstance(stages, ListNode):
            self._wrong(f"`stages` of `insert` must be a list, got {got(stages)}", stages, _ITEM_HINT)
            return None
        anchor = self._find("insert", at)
        return None if anchor is None else (sides[0], anchor, stages)

    def _fresh(self, stages: ListNode) -> Iterator[_Item]:
        """The stages of an insertion; one without an id of its own gets the first that is free."""
        taken = {one.id for one in self._items}
        for one in outline(stages):
            name = one.id
            if "id" not in one.keywords and one.uses is not None:
                name = self._free(one.uses, taken)
            taken.add(name)
            yield _Item(one.node, name, one.uses)

    def _free(self, uses: str, taken: set[str]) -> str:
        name, number = uses, self._next.get(uses, 2)
        while name in taken:
            name = f"{uses}_{number}"
            number += 1
        self._next[uses] = number
        return name

    def _find(self, key: str, node: Node) -> _Item | None:
        if node.poisoned or not isinstance(node, ScalarNode) or is_null(node):
            self._wrong(f"`{key}` names stages by their ids, got {got(node)}", node)
            return None
        name = node.text
        if self._faults.full:
            self._sound = False
            return None
        found = next((one for one in self._items if one.id == name), None)
        if found is None and name in self._dropped:
            where = "twice" if key == "drop" else f"by `drop`, so `{key}` cannot name it"
            self._fault("MC124", f"stage `{shown(name)}` is taken out {where}", node.mark)
        elif found is None:
            ids = [one.id for one in self._items if one.id]
            self._fault("MC124", f"no stage has the id `{shown(name)}`", node.mark, did_you_mean(name, ids), ids)
        return found

    def _wrong(self, message: str, node: Node, hint: str = "") -> None:
        if node.poisoned:
            self._sound = False
        else:
            self._fault("MC104", message, node.mark, hint=hint)

    def _fault(
        self,
        code: str,
        message: str,
        mark: Mark,
        label: str = "",
        known: Collection[str] = (),
        *,
        hint: str = "",
    ) -> None:
        self._sound = False
        listing = f"known: {listed(known)}" if known and not label else ""
        self._faults.error(code, message, mark, label=label, hint=hint or listing)

    def _keep_ids(self) -> None:
        """Write out the ids that would change with the stages that came or went."""
        for index, (item, entry) in enumerate(zip(self._items, outline(self._result), strict=True)):
            if item.uses is not None and entry.id != item.id and "id" not in entry.keywords:
                node = self._result.items[index] = opened(item.node)
                node.entries["id"] = MapEntry(entry.mark, ScalarNode(item.id, entry.mark, item.id, quoted=True))
