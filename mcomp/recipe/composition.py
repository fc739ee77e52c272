"""``extends``: one tree from a recipe and the files that it builds on.

Every file is brought to the current version, laid over what it extends, and then has its edits of the stages carried
out; so each can be read, and validated, without those that build on it.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path
from typing import NoReturn

from mcomp.recipe.diagnostics import Faults, shown
from mcomp.recipe.loader import MAX_BYTES, MAX_NODES, parse
from mcomp.recipe.overlay import overlay
from mcomp.recipe.reading import SUFFIXES, BaseFault, Identity, decode, read_base
from mcomp.recipe.schema import COMPOSING
from mcomp.recipe.stage_edits import edit_stages
from mcomp.recipe.stage_entries import few_enough
from mcomp.recipe.translate import got
from mcomp.recipe.tree import ListNode, MapNode, Mark, Node, ScalarNode, Source, clone, count, is_null
from mcomp.recipe.variables import TOP_LEVEL, used
from mcomp.recipe.versions import migrate
from mcomp.suggest import closest

MAX_EXTENDS = 8
_MOST_LISTED = 1000  # files of a folder that are looked at for a name that was meant
_KEYS = (*TOP_LEVEL, "vars", *COMPOSING)


@dataclass
class Composed:
    """What became of a recipe and its bases.

    Attributes:
        root: one tree without ``extends``, ``override``, ``drop`` and ``insert``.
        files: the bases that were read, in order, each once.
        used: variables that any of the files uses, in whatever its readers may have replaced.
        gone: ids that an edit took from the list of stages, each with what became of it.
        sound: False where the stages are not those that were asked for, so that judging them would mislead.
    """

    root: MapNode
    files: list[Path] = field(default_factory=list)
    used: set[str] = field(default_factory=set)
    gone: dict[str, str] = field(default_factory=dict)
    sound: bool = True


@dataclass(frozen=True)
class _Link:
    """A file that is being read, below the one that extends it."""

    name: str
    folder: Path
    shown_folder: str
    identity: Identity | None


class _Broken(Exception):
    """A base is missing: nothing that is left means what was asked for. The reason is recorded."""


def compose(
    source: Source, folder: Path, shown_folder: str, identity: Identity | None, faults: Faults
) -> Composed | None:
    """Read a recipe and all that it extends.

    Args:
        source: the recipe's text.
        folder: what its ``extends`` is relative to.
        shown_folder: the same folder as messages name it.
        identity: which file the recipe is, to notice that it extends itself.
        faults: receives what is wrong.

    Returns:
        None where nothing can be said about the whole.
    """
    composer = _Composer(faults, len(source.text))
    faults.reads(source.name)
    try:
        root = composer.file(source, [_Link(source.name, folder, shown_folder, identity)], None)
    except _Broken:
        return None
    return replace(composer.result, root=root)


class _Composer:
    """Follows ``extends`` depth first and keeps account of what all the files cost together."""

    def __init__(self, faults: Faults, characters: int) -> None:
        self._faults = faults
        self._bytes = MAX_BYTES - characters
        self._nodes = MAX_NODES
        self._read: dict[Identity, MapNode] = {}
        self.result = Composed(MapNode(Mark(Source("", ""), 1, 1)))

    def file(self, source: Source, chain: Sequence[_Link], asked: Mark | None) -> MapNode:
        """The tree of one text with its bases below it."""
        root = self._tree(source, asked)
        self._misspelled(root)
        entry = root.entries.pop("extends", None)
        merged: MapNode | None = None
        for node in [] if entry is None else self._names(entry.value):
            base = self._base(node, chain)
            merged = base if merged is None else overlay(merged, base)
        if merged is not None:
            root = overlay(merged, root)
        self._few_stages(root)
        self.result.sound &= edit_stages(root, self._faults, self.result.gone)
        self._few_stages(root)
        return root

    def _few_stages(self, root: MapNode) -> None:
        stages = root.get("stages")
        if isinstance(stages, ListNode) and not few_enough(stages, root.entries["stages"].key, self._faults):
            raise _Broken

    def _tree(self, source: Source, asked: Mark | None) -> MapNode:
        known = len(self._faults.errors)
        root = parse(source, self._faults)
        start = Mark(source, 1, 1)
        if root is None and len(self._faults.errors) == known and not self._faults.full:
            if asked is None:
                self._faults.error("MC101", "the recipe is empty", start, hint="`mcomp init` writes a first recipe")
            else:
                self._faults.error("MC122", f"`{source.name}` is empty", asked)
        elif root is not None and not isinstance(root, MapNode):
            message = f"a recipe must be a mapping (`key: value`), got {got(root)}"
            self._faults.error("MC104", message, root.mark)
        if not isinstance(root, MapNode) or not migrate(root, self._faults):
            raise _Broken
        self.result.used |= used(root)
        variables = root.get("vars")
        if asked is not None and isinstance(variables, MapNode):
            self.result.used |= variables.entries.keys()  # a base offers variables; not everyone needs each
        self._spend(root, asked or start)
        return root

    def _spend(self, root: MapNode, asked: Mark) -> None:
        self._nodes -= count(root)
        if self._nodes < 0:
            self._fail("MC123", f"more than {MAX_NODES} values in all the files together", asked)

    def _misspelled(self, root: MapNode) -> None:
        """A key that was meant to compose: said here, since without it much else would look wrong."""
        for key in [key for key in root.entries if key not in _KEYS]:
            meant = closest(key, _KEYS)
            if meant not in COMPOSING or meant in root.entries:
                continue
            mark = root.entries.pop(key).key
            label = f"did you mean `{meant}`?"
            self._faults.error("MC103", f"unknown key `{shown(key)}` for a recipe", mark, label=label)
            self.result.sound = False
            if meant == "extends":
                raise _Broken

    def _names(self, node: Node) -> list[ScalarNode]:
        """The files under ``extends``, one or a list of them."""
        if is_null(node):
            return []
        found = []
        for one in node.items if isinstance(node, ListNode) else [node]:
            if isinstance(one, ScalarNode) and isinstance(one.value, str) and one.value and not one.poisoned:
                found.append(one)
            elif one.poisoned:
                raise _Broken
            else:
                message = f"`extends` must be the name of a file or a list of them, got {got(one)}"
                self._fail("MC104", message, one.mark, hint="e.g. `extends: base.yaml`")
        return found

    def _base(self, node: ScalarNode, chain: Sequence[_Link]) -> MapNode:
        above, written, mark = chain[-1], str(node.value), node.mark
        if "://" in written:
            self._fail("MC122", "`extends` reads files, no addresses", mark, hint="save the file beside the recipe")
        if "${" in written:
            hint = "variables are filled in after the files were put together; write the name out"
            self._fail("MC122", "`extends` cannot use a variable", mark, hint=hint)
        if "\0" in written:
            self._fail("MC122", "a character U+0000 is part of no file name", mark)
        link = above.folder / os.path.expanduser(written)
        name = _shown_name(above.shown_folder, written, link)
        if len(chain) > MAX_EXTENDS:
            self._fail("MC123", f"`extends` goes deeper than {MAX_EXTENDS} files", mark)
        if link.suffix not in SUFFIXES and not os.path.isdir(link):
            message = f"`{shown(written)}` is no .yaml or .yml file"
            self._fail("MC122", message, mark, label=_meant(written, link))
        try:
            data, identity = read_base(link, shown(written), self._bytes)
        except BaseFault as fault:
            label, hint = "", fault.hint
            if not os.path.lexists(link):
                label, hint = _meant(written, link), f"looked for {shown(str(link), 200)}"
            self._fail("MC122", f"cannot extend: {fault.message}", mark, label=label, hint="" if label else hint)
        self._no_cycle(identity, name, chain, mark)
        self._bytes -= len(data)
        folder = link.parent
        below = _Link(name, folder, os.path.dirname(name), identity)
        if identity in self._read:
            root = clone(self._read[identity])
            assert isinstance(root, MapNode)
            self._spend(root, mark)
            return root
        self._faults.reads(name)
        source = decode(data, name, self._faults, folder)
        if source is None:
            raise _Broken
        self.result.files.append(link)
        root = self.file(source, [*chain, below], mark)
        copied = clone(root)
        assert isinstance(copied, MapNode)
        self._read[identity] = copied
        return root

    def _no_cycle(self, identity: Identity, name: str, chain: Sequence[_Link], mark: Mark) -> None:
        start = next((place for place, one in enumerate(chain) if one.identity == identity), None)
        if start is not None:
            way = " → ".join(f"`{shown(one)}`" for one in (*(link.name for link in chain[start:]), name))
            self._fail("MC123", f"a recipe cannot extend itself: {way}", mark)

    def _fail(self, code: str, message: str, mark: Mark, *, label: str = "", hint: str = "") -> NoReturn:
        self._faults.error(code, message, mark, label=label, hint=hint)
        raise _Broken


def _shown_name(folder: str, written: str, link: Path) -> str:
    """A base as the person would name it: from where the recipe was named, without needless ``..``."""
    joined = os.path.join(folder, os.path.expanduser(written))
    short = os.path.normpath(joined)
    # behind a symbolic link `a/../b` is not `b`
    plain = os.path.normpath(link)
    return short if os.path.realpath(link) == os.path.realpath(plain) else joined


def _meant(written: str, link: Path) -> str:
    """The file of that folder that was probably meant."""
    try:
        names = [one.name for one in islice(link.parent.iterdir(), _MOST_LISTED) if one.suffix in SUFFIXES]
    except (OSError, ValueError):
        return _meant_folder(written, link)
    near = closest(link.name, names)
    head = written[: len(written) - len(os.path.basename(written))]
    return f"did you mean `{head}{near}`?" if near else ""


def _meant_folder(written: str, link: Path) -> str:
    """The folder that was probably meant, where the file's own name is right."""
    parent, above = link.parent, link.parent.parent
    try:
        names = [one.name for one in islice(above.iterdir(), _MOST_LISTED) if (one / link.name).is_file()]
    except (OSError, ValueError):
        return ""
    near = closest(parent.name, names)
    if near is None or not written.endswith(f"{parent.name}/{link.name}"):
        return ""
    head = written[: len(written) - len(f"{parent.name}/{link.name}")]
    return f"did you mean `{head}{near}/{link.name}`?"
