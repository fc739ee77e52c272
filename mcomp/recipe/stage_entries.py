"""The list of stages, taken apart: which stage each entry uses, its id, its engine keywords."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass, field

from mcomp.recipe.diagnostics import Faults, shown
from mcomp.recipe.tree import ListNode, MapEntry, MapNode, Mark, Node, ScalarNode
from mcomp.suggest import closest, did_you_mean, listed

#: Far past any real recipe; what is known of a stage depends on all the others.
MAX_STAGES = 256
KEYWORDS = ("id", "from", "when", "otherwise", "gates", "seed", "cache")
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")


@dataclass
class Entry:
    """One item of ``stages``.

    Attributes:
        node: the item.
        uses: the stage's name as written; None when the item names none.
        mark: where the stage is named.
        options: its options; None for a bare string or ``prune:``.
        keywords: engine keywords beside the stage.
        id: explicit or automatic.
    """

    node: Node
    mark: Mark
    uses: str | None = None
    options: Node | None = None
    keywords: dict[str, MapEntry] = field(default_factory=dict)
    id: str = ""

    @property
    def place(self) -> str:
        """Where to look, for messages about two stages."""
        return self.mark.place


def few_enough(stages: ListNode, mark: Mark, faults: Faults) -> bool:
    """False, with the reason recorded, for a list of more than ``MAX_STAGES``."""
    few = len(stages.items) <= MAX_STAGES
    if not few:
        faults.error("MC123", f"`stages` has more than {MAX_STAGES} entries, the most that make a recipe", mark)
    return few


def outline(stages: ListNode) -> list[Entry]:
    """Every item with its stage name and id, saying nothing about faults."""
    silent = Faults()
    entries = [take_apart_one(item, silent) for item in stages.items]
    name_stages(entries, silent)
    return entries


def take_apart(stages: ListNode, faults: Faults) -> list[Entry]:
    """Every item with its stage name, id and keywords; faults of their form are recorded."""
    entries = [take_apart_one(item, faults) for item in stages.items]
    name_stages(entries, faults)
    return entries


def name_stages(entries: list[Entry], faults: Faults) -> None:
    """Give each entry its id: the explicit one, or the stage's name, then ``name_2`` and so on."""
    uses: Counter[str] = Counter()
    taken: dict[str, Entry] = {}
    for entry in entries:
        if entry.uses is None:
            continue
        uses[entry.uses] += 1
        entry.id = entry.uses if uses[entry.uses] == 1 else f"{entry.uses}_{uses[entry.uses]}"
        explicit = entry.keywords.get("id")
        if explicit is not None:
            found = _explicit_id(explicit.value, faults)
            entry.id = entry.id if found is None else found
        if entry.id in taken:
            _same_id(taken[entry.id], entry, faults)
        else:
            taken[entry.id] = entry


def _same_id(first: Entry, second: Entry, faults: Faults) -> None:
    """Of two stages with one id, blame the id that was written out: last, in the file that builds on the other."""
    one, other = first.place, second.place
    if one == other:
        one, other = f"{one}, column {first.mark.column}", f"{other}, column {second.mark.column}"
    (first_late, first_mark), (second_late, second_mark) = _said(first), _said(second)
    faults.error(
        "MC111",
        f"two stages have the id `{second.id}`: {one} and {other}",
        first_mark if first_late > second_late else second_mark,
        hint="give one of them another `id:`",
    )


def _said(entry: Entry) -> tuple[int, Mark]:
    """Where an entry's id is written, and how late that is: an automatic one comes before all others."""
    explicit = entry.keywords.get("id")
    if explicit is None or explicit.value.mark == entry.mark:  # or it only keeps the one that it had
        return 0, entry.mark
    source = explicit.value.mark.source
    return (3 if source.kind == "set" else 2 if source.folder is None else 1), explicit.value.mark


def _explicit_id(node: Node, faults: Faults) -> str | None:
    if node.poisoned:
        return None
    if isinstance(node, ScalarNode) and (NAME.fullmatch(node.text) and (node.quoted or node.value is not None)):
        return node.text
    faults.error(
        "MC111",
        "an `id` is letters, digits, `_`, `.` and `-`, at most 64, and starts with a letter or digit",
        node.mark,
    )
    return None


def take_apart_one(item: Node, faults: Faults) -> Entry:
    """One item with its stage name and keywords, without an id."""
    if isinstance(item, ScalarNode):
        entry = Entry(item, item.mark)
        if isinstance(item.value, str) and item.value:
            entry.uses = item.value
        elif not item.poisoned:
            faults.error(
                "MC106", "a stage is named by text", item.mark, hint="e.g. `- bn_fuse`, `- prune: {ratio: 0.4}`"
            )
        return entry
    if isinstance(item, ListNode):
        faults.error("MC106", "a stage cannot be a list", item.mark, hint="e.g. `- prune: {ratio: 0.4}`")
        return Entry(item, item.mark)
    return _from_mapping(item, faults)


def _from_mapping(item: MapNode, faults: Faults) -> Entry:
    keywords = {name: entry for name, entry in item.entries.items() if name in KEYWORDS}
    others = [name for name in item.entries if name not in KEYWORDS]
    uses = _stage_key(others)
    if uses is None:
        first = next(iter(item.entries.values()), None)
        mark = item.mark if first is None else first.key
        if not item.poisoned:
            faults.error("MC106", "this entry names no stage", mark, hint="e.g. `- prune: {ratio: 0.4}`")
        return Entry(item, mark, keywords=keywords)
    found = item.entries[uses]
    entry = Entry(item, found.key, uses, found.value, keywords)
    for name in others:
        if name != uses:
            _stray(entry, name, item.entries[name].key, faults)
    return entry


def _stage_key(names: list[str]) -> str | None:
    """The key that names the stage: a known stage, else the one least like a keyword."""
    if len(names) < 2:
        return names[0] if names else None
    known = [name for name in names if is_stage(name)]
    if known:
        return known[0]
    return next((name for name in names if closest(name, KEYWORDS) is None), names[0])


def is_stage(name: str) -> bool:
    """True when a stage of this name is registered."""
    from mcomp.stages import registry

    try:
        registry.get(name)
    except KeyError:
        return False
    return True


def _stray(entry: Entry, name: str, mark: Mark, faults: Faults) -> None:
    """A key beside the stage that is no engine keyword: usually a lost indentation or a lost dash."""
    from mcomp.stages import registry

    assert entry.uses is not None
    if is_stage(name):
        faults.error(
            "MC106",
            f"one entry names two stages, `{entry.uses}` and `{name}`",
            mark,
            hint=f"start a new line with `- {name}`",
        )
        return
    options = registry.get(entry.uses).Options.model_fields if is_stage(entry.uses) else {}
    label = did_you_mean(name, KEYWORDS)
    hint = f"beside a stage stand only {listed(KEYWORDS)}" if not label else ""
    if name in options:
        label, hint = "", f"it is an option of `{entry.uses}`: write `{entry.uses}: {{{name}: …}}`"
    faults.error("MC103", f"unknown keyword `{shown(name)}` beside stage `{entry.uses}`", mark, label=label, hint=hint)
