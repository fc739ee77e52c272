"""What a module computes, as a digest: its tokens and those of everything of its own package that it imports.

Nothing is imported to find out. Imports are read from the syntax tree, also those inside functions; comments, blank
lines and line breaks do not count. A package whose ``__init__`` imports lazily (a module-level ``__getattr__``) is
followed through the imports that it declares under ``TYPE_CHECKING`` and the module names among its strings; so is a
module that calls ``importlib.import_module``. Too much is safe here, too little is a stale result.
"""

from __future__ import annotations

import hashlib
import importlib.util
import io
import json
import os
import tokenize
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from mcomp.engine.imports import Facts, read_facts
from mcomp.errors import PreflightError, StoreError
from mcomp.store import atomic
from mcomp.store.digest import parse_json

_CACHE_FORMAT = 3

#: Modules that import by a name which the action key holds anyway (the stage, the model) or whose outcome is proved
#: at load (the surgery log): their strings are not followed, or every stage would depend on every other.
_DISPATCHERS = frozenset({"mcomp", "mcomp.stages", "mcomp.stages.registry", "mcomp.models.registry", "mcomp.surgery"})
#: Doors that only lead elsewhere and compute nothing: one more exported name must not re-run a training.
_DOORS = frozenset({"mcomp"})
#: Modules of mcomp that foretell and advise beside the work: no stage's outcome is made there.
_BESIDE = frozenset({"mcomp.stages.forecast", "mcomp.pruning.bounds", "mcomp.pruning.cost_form", "mcomp.suggest"})

_DROPPED = {tokenize.COMMENT, tokenize.NL, tokenize.ENCODING, tokenize.ENDMARKER}
_LAYOUT = {tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT}
# From Python 3.12 on an f-string is many tokens; its source text is the one token that it was before.
_STARTS = {getattr(tokenize, name, -1) for name in ("FSTRING_START", "TSTRING_START")}
_ENDS = {getattr(tokenize, name, -1) for name in ("FSTRING_END", "TSTRING_END")}


class Reader:
    """Reads source files, each once: it sees them as they were when it first met them.

    Args:
        cache_path: a JSON file that remembers files by path, size and modification time. It is written when its folder
            exists; a folder that cannot be written costs only time.
    """

    def __init__(self, cache_path: Path | None = None) -> None:
        self._files = _Files.remembered(cache_path)
        self._cache_path = cache_path

    @cached_property
    def mcomp_is_released(self) -> bool:
        """:func:`is_released`, asked once: it lists a whole ``site-packages``."""
        return is_released("mcomp")

    def closure(self, module_file: Path, root_package: str | None) -> dict[str, str]:
        """Token digest of each module in the import closure, by dotted name.

        Args:
            module_file: the module.
            root_package: the top-level package it belongs to; None for a file on its own, whose first-party code is
                what lies in the same folder, and mcomp.

        Raises:
            PreflightError: MC293, a file cannot be read or is no Python.
        """
        module_file = module_file.resolve()
        # where a person's files lie a new one may take the place of an import; in mcomp it would have to be named
        known = self._files.closure(module_file) if root_package == "mcomp" else None
        if known is not None:
            return known
        tree = _Tree.around(module_file, root_package)
        start = tree.name_of(module_file)
        found = {start: module_file}
        facts = self._files.facts(module_file)
        self._follow(tree, _next(tree, self._files, start, module_file, facts), found)
        if root_package == "mcomp":
            self._files.note(module_file, found)
        return self._digests(found)

    def behind(self, imports: str) -> dict[str, str]:
        """As :meth:`closure`, of code that lies in no file and imports this of mcomp's."""
        tree = _Tree({"mcomp": Path(__file__).resolve().parents[2]})
        found: dict[str, Path] = {}
        cell = Path("cell.py")  # of no package
        self._follow(tree, _next(tree, self._files, "", cell, read_facts(imports, "")), found)
        return self._digests(found)

    def _follow(self, tree: _Tree, names: Iterable[str], found: dict[str, Path]) -> None:
        """Add these modules, and all that they need, to ``found``."""
        waiting = list(names)
        while waiting:
            name = waiting.pop()
            path = None if name in found or name in _DOORS or name in _BESIDE else tree.file_of(name)
            if path is not None:
                found[name] = path
                waiting.extend(_next(tree, self._files, name, path, self._files.facts(path)))

    def _digests(self, found: Mapping[str, Path]) -> dict[str, str]:
        digests = {name: self._files.facts(path).digest for name, path in found.items()}
        self._files.remember(self._cache_path)
        return digests

    def remember(self, cache_path: Path) -> None:
        """Write down what was read, where there was no place for it before."""
        self._files.changed = True
        self._files.remember(cache_path)

    def digest(self, file: Path) -> str:
        """SHA-256 over the tokens of one file, whatever it imports.

        Raises:
            PreflightError: MC293, it cannot be read or is no Python.
        """
        found = self._files.facts(file.resolve()).digest
        self._files.remember(self._cache_path)
        return found


def token_digest(source: str) -> str:
    """SHA-256 over the tokens of Python source; comments, blank lines and the width of indents do not count.

    Raises:
        SyntaxError: not Python.
    """
    digest = hashlib.sha256()
    for text in _texts(source):
        digest.update(text.encode())
        digest.update(b"\0")
    return digest.hexdigest()


def is_released(package: str = "mcomp") -> bool:
    """Whether ``package`` is installed from a wheel or an index, not from a folder that a person edits."""
    spec = importlib.util.find_spec(package)
    if spec is None or spec.origin is None:
        return False
    home = Path(spec.origin).resolve().parent.parent
    if home.name not in {"site-packages", "dist-packages"}:
        return False
    for record in home.glob(f"{package}-*.dist-info/direct_url.json"):
        with suppress(OSError, ValueError):
            if "dir_info" in json.loads(record.read_bytes()):  # `pip install .` copies a checkout
                return False
    return any(home.glob(f"{package}-*.dist-info"))


def _texts(source: str) -> Iterator[str]:
    lines = source.splitlines(keepends=True)
    depth, start = 0, (0, 0)
    try:
        for token in tokenize.generate_tokens(io.StringIO(source).readline):
            if token.type in _STARTS:
                start = start if depth else token.start
                depth += 1
            elif token.type in _ENDS:
                depth -= 1
                if depth == 0:
                    yield _slice(lines, start, token.end)
            elif depth or token.type in _DROPPED:
                continue
            else:
                yield tokenize.tok_name[token.type] if token.type in _LAYOUT else token.string
    except tokenize.TokenError as error:
        raise SyntaxError(str(error)) from error


def _slice(lines: list[str], start: tuple[int, int], end: tuple[int, int]) -> str:
    if start[0] == end[0]:
        return lines[start[0] - 1][start[1] : end[1]]
    middle = lines[start[0] : end[0] - 1]
    return "".join([lines[start[0] - 1][start[1] :], *middle, lines[end[0] - 1][: end[1]]])


@dataclass
class _Tree:
    """Where the modules of the first party lie: dotted name to file and back."""

    roots: dict[str | None, Path]  # top-level name to the folder that holds it; None: any name in that folder
    _known: dict[str, Path | None] = field(default_factory=dict)

    @classmethod
    def around(cls, module_file: Path, root_package: str | None) -> _Tree:
        if root_package is None:
            roots: dict[str | None, Path] = {None: module_file.parent}
        else:
            home = next((p for p in module_file.parents if p.name == root_package), None)
            roots = {root_package: module_file.parent if home is None else home.parent}
        roots.setdefault("mcomp", Path(__file__).resolve().parents[2])
        return cls(roots)

    def file_of(self, name: str) -> Path | None:
        """The file of a first-party module, None for anything else."""
        if name not in self._known:
            self._known[name] = self._look(name)
        return self._known[name]

    def _look(self, name: str) -> Path | None:
        parts = name.split(".")
        root = self.roots.get(parts[0], self.roots.get(None))
        if root is None or not all(part.isidentifier() for part in parts):
            return None
        base = os.path.join(root, *parts)
        found = next((file for file in (os.path.join(base, "__init__.py"), f"{base}.py") if os.path.isfile(file)), None)
        return None if found is None else Path(found)

    def name_of(self, path: Path) -> str:
        for root in self.roots.values():
            with suppress(ValueError):
                parts = list(path.relative_to(root).with_suffix("").parts)
                return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
        return path.stem


#: What this process knows of files, with the stamp they had: parsed once, though every stage's closure meets them.
_KNOWN: dict[str, tuple[list[int], Facts]] = {}


@dataclass
class _Files:
    """Facts of source files, remembered from run to run."""

    entries: dict[str, Any]
    """Path to stamp and facts."""
    closures: dict[str, dict[str, str]]
    """File of mcomp's that a closure starts from, to name and path of each of its modules."""
    changed: bool = False
    _stamps: dict[str, list[int]] = field(default_factory=dict)

    @classmethod
    def remembered(cls, path: Path | None) -> _Files:
        if path is not None:
            with suppress(OSError, ValueError, KeyError, TypeError):  # a damaged memory is an empty one
                found = parse_json(path.read_bytes())
                if found["format"] == _CACHE_FORMAT:
                    return cls(dict(found["files"]), dict(found["closures"]))
        return cls({}, {})

    def facts(self, path: Path) -> Facts:
        name = str(path)
        try:
            stamp = self._stamp(name)
            if name in _KNOWN and _KNOWN[name][0] == stamp:
                facts = _KNOWN[name][1]
            elif name in self.entries and self.entries[name][0] == stamp:
                facts = Facts.from_json(self.entries[name][1])
            else:
                with tokenize.open(path) as file:  # honours an encoding declaration
                    source = file.read()
                facts = read_facts(source, token_digest(source))
        except (OSError, SyntaxError, ValueError) as error:
            raise PreflightError(
                f"cannot read `{path}` as Python: {error}", code="MC293", hint="correct the file; nothing was run"
            ) from error
        _KNOWN[name] = (stamp, facts)
        if name not in self.entries or self.entries[name][0] != stamp:
            self.entries[name] = [stamp, facts.as_json()]
            self.changed = True
        return facts

    def closure(self, start: Path) -> dict[str, str] | None:
        """The closure as it was found before; None unless each of its files is the same still."""
        digests: dict[str, str] = {}
        for name, path in self.closures.get(str(start), {}).items():
            try:
                if self.entries[path][0] != self._stamp(path):
                    return None
            except (KeyError, OSError):  # forgotten, or gone
                return None
            digests[name] = self.entries[path][1][0]
        return digests or None

    def note(self, start: Path, found: dict[str, Path]) -> None:
        """Keep the names and paths of a closure."""
        self.closures[str(start)] = {name: str(path) for name, path in found.items()}
        self.changed = True

    def remember(self, path: Path | None) -> None:
        if path is None or not self.changed or not path.parent.is_dir():
            return
        memory = {"format": _CACHE_FORMAT, "files": self.entries, "closures": self.closures}
        with suppress(StoreError):  # a read-only store may still be planned against
            atomic.write_bytes(path, json.dumps(memory).encode())
            self.changed = False

    def _stamp(self, path: str) -> list[int]:
        if path not in self._stamps:
            stat = os.stat(path)
            self._stamps[path] = [stat.st_size, stat.st_mtime_ns]
        return self._stamps[path]


def _next(tree: _Tree, files: _Files, name: str, path: Path, facts: Facts) -> Iterator[str]:
    """Names of modules that ``name`` needs, some of them not of the first party."""
    package = name if path.name == "__init__.py" else name.rpartition(".")[0]
    parent = name.rpartition(".")[0]
    if parent:
        yield parent  # importing a.b.c runs a and a.b first
    for module, names in facts.imports:
        target = _absolute(package, module)
        yield target
        if names is None:
            yield from _lazy(tree, files, target, None)
        if names is None and target in _DOORS and not name.startswith("mcomp."):
            yield from _rooms(tree, files, target)
        for imported in names or ():
            if tree.file_of(f"{target}.{imported}") is not None:
                yield f"{target}.{imported}"
                yield from _lazy(tree, files, f"{target}.{imported}", None)
            else:
                yield from _lazy(tree, files, target, imported)
    if facts.dynamic and name not in _DISPATCHERS and path.name != "__init__.py":
        yield from _named_in_strings(tree, package, facts)


def _lazy(tree: _Tree, files: _Files, package: str, wanted: str | None) -> Iterator[str]:
    """What a lazily importing package may bring in for the name ``wanted`` (None: for any name)."""
    path = tree.file_of(package)
    if path is None or path.name != "__init__.py":
        return
    facts = files.facts(path)
    if not facts.lazy or (wanted is not None and wanted in facts.defined):
        return
    homes = [_absolute(package, module) for module, names in facts.type_only if names and wanted in names]
    if package in _DISPATCHERS:
        yield from homes
        if tree.file_of(f"{package}.builtin.{wanted}") is not None:  # a stage as a plain function
            yield f"{package}.builtin.{wanted}"
        return
    if homes:
        yield from homes
        return
    for module, _names in facts.type_only:
        yield _absolute(package, module)
    yield from _named_in_strings(tree, package, facts)


def _rooms(tree: _Tree, files: _Files, door: str) -> Iterator[str]:
    """Everything behind a front door: after ``import mcomp`` any room may be used by its name."""
    path = tree.file_of(door)
    for room in () if path is None else _named_in_strings(tree, door, files.facts(path)):
        yield room
        yield from _lazy(tree, files, room, None)


def _named_in_strings(tree: _Tree, package: str, facts: Facts) -> Iterator[str]:
    for text in facts.strings:
        for candidate in (text, f"{package}.{text.lstrip('.')}"):
            if tree.file_of(candidate) is not None:
                yield candidate


def _absolute(package: str, module: str) -> str:
    """The absolute name of ``module`` as written in ``package``; leading dots count levels."""
    level = len(module) - len(module.lstrip("."))
    if level == 0:
        return module
    parts = package.split(".") if package else []
    kept = parts[: len(parts) - (level - 1)]
    return ".".join([*kept, *filter(None, [module[level:]])])
