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
import tokenize
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mcomp.engine.imports import Facts, read_facts
from mcomp.errors import PreflightError, StoreError
from mcomp.store import atomic
from mcomp.store.digest import sha256_json

_CACHE_FORMAT = 1

#: Modules that import by a name which the action key holds anyway (the stage, the model) or whose outcome is proved
#: at load (the surgery log): their strings are not followed, or every stage would depend on every other.
_DISPATCHERS = frozenset({"mcomp", "mcomp.stages", "mcomp.stages.registry", "mcomp.surgery"})

_DROPPED = {tokenize.COMMENT, tokenize.NL, tokenize.ENCODING, tokenize.ENDMARKER}
_LAYOUT = {tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT}
# From Python 3.12 on an f-string is many tokens; its source text is the one token that it was before.
_STARTS = {getattr(tokenize, name, -1) for name in ("FSTRING_START", "TSTRING_START")}
_ENDS = {getattr(tokenize, name, -1) for name in ("FSTRING_END", "TSTRING_END")}


def code_digest(module_file: Path, root_package: str | None, cache_path: Path | None = None) -> str:
    """SHA-256 over the tokens of a module and of its first-party import closure.

    Args:
        module_file: the module.
        root_package: the top-level package it belongs to; None for a file on its own, whose first-party code is what
            lies in the same folder, and mcomp.
        cache_path: a JSON file that remembers files by path, size and modification time. It is written when its folder
            exists; a folder that cannot be written costs only time.

    Raises:
        PreflightError: MC270, a file cannot be read or is no Python.
    """
    return sha256_json(closure(module_file, root_package, cache_path))


def closure(module_file: Path, root_package: str | None, cache_path: Path | None = None) -> dict[str, str]:
    """Token digest of each module in the import closure, by dotted name."""
    module_file = module_file.resolve()
    tree = _Tree.around(module_file, root_package)
    files = _Files.remembered(cache_path)
    start = tree.name_of(module_file)
    found: dict[str, str] = {}
    waiting = [start]
    while waiting:
        name = waiting.pop()
        if name in found:
            continue
        path = module_file if name == start else tree.file_of(name)
        if path is None:
            continue
        facts = files.facts(path)
        found[name] = facts.digest
        waiting.extend(_next(tree, files, name, path, facts))
    files.remember(cache_path)
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
        base = root.joinpath(*parts)
        for path in (base / "__init__.py", base.with_name(base.name + ".py")):
            if path.is_file():
                return path
        return None

    def name_of(self, path: Path) -> str:
        for root in self.roots.values():
            with suppress(ValueError):
                parts = list(path.relative_to(root).with_suffix("").parts)
                return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
        return path.stem


#: What this process has read already, under the same stamps as the file that outlives it.
_READ: dict[str, Any] = {}


@dataclass
class _Files:
    """Facts of source files, remembered from run to run."""

    entries: dict[str, Any]
    changed: bool = False

    @classmethod
    def remembered(cls, path: Path | None) -> _Files:
        entries: dict[str, Any] = {}
        if path is not None:
            with suppress(OSError, ValueError, KeyError, TypeError):  # a damaged memory is an empty one
                found = json.loads(path.read_bytes())
                if found["format"] == _CACHE_FORMAT:
                    entries = dict(found["files"])
        return cls({**_READ, **entries}, changed=not _READ.keys() <= entries.keys())

    def facts(self, path: Path) -> Facts:
        name = str(path)
        try:
            stat = path.stat()
            stamp = [stat.st_size, stat.st_mtime_ns]
            known = self.entries.get(name)
            if known is not None and known[0] == stamp:
                return Facts.from_json(known[1])
            with tokenize.open(path) as file:  # honours an encoding declaration
                source = file.read()
            facts = read_facts(source, token_digest(source))
        except (OSError, SyntaxError, ValueError) as error:
            raise PreflightError(
                f"cannot read `{path}` as Python: {error}", code="MC270", hint="correct the file; nothing was run"
            ) from error
        self.entries[name] = _READ[name] = [stamp, facts.as_json()]
        self.changed = True
        return facts

    def remember(self, path: Path | None) -> None:
        if path is None or not self.changed or not path.parent.is_dir():
            return
        with suppress(StoreError):  # a read-only store may still be planned against
            atomic.write_bytes(path, json.dumps({"format": _CACHE_FORMAT, "files": self.entries}).encode())


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
    if path is None or path.name != "__init__.py" or package in _DISPATCHERS:
        return
    facts = files.facts(path)
    if not facts.lazy or (wanted is not None and wanted in facts.defined):
        return
    homes = [_absolute(package, module) for module, names in facts.type_only if names and wanted in names]
    if homes:
        yield from homes
        return
    for module, _names in facts.type_only:
        yield _absolute(package, module)
    yield from _named_in_strings(tree, package, facts)


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
