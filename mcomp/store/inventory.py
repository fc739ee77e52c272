"""What lies in a store: every thing with its size, its last use and what it refers to. No torch."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from mcomp.store import atomic
from mcomp.store.digest import parse_json
from mcomp.store.run_events import events_of
from mcomp.store.runs import read_result

Kind = Literal["runs", "actions", "objects", "snapshots", "cache", "quarantine", "leftovers"]
KINDS: tuple[Kind, ...] = ("runs", "actions", "objects", "snapshots", "cache", "quarantine", "leftovers")

# how tempfile names what it has not finished
_TEMPFILE = re.compile(r"tmp[a-z0-9_]{8}")


@dataclass(frozen=True)
class Item:
    """One thing in a store that can go as a whole.

    Attributes:
        kind: where it belongs.
        name: a run's id, an action's key, an object's digest, or the path inside the store.
        path: file or folder.
        bytes: sum of its files' sizes.
        used: when it was last written or relied on, in seconds by the file system's clock.
        keys: of actions that it refers to.
        artifacts: digests of objects that it refers to.
    """

    kind: Kind
    name: str
    path: Path
    bytes: int
    used: float
    keys: frozenset[str] = frozenset()
    artifacts: frozenset[str] = frozenset()


@dataclass(frozen=True)
class Inventory:
    """Everything in one store; ``other_bytes`` is what no collection ever takes."""

    items: tuple[Item, ...]
    other_bytes: int

    def of(self, kind: Kind) -> list[Item]:
        """The things of one kind."""
        return [item for item in self.items if item.kind == kind]

    @property
    def bytes(self) -> int:
        """Size of the whole store."""
        return sum(item.bytes for item in self.items) + self.other_bytes


def take(root: Path) -> Inventory:
    """Look at everything under ``root``. What disappears meanwhile counts as gone."""
    items = [
        *(_run(path) for path in _children(root / "runs") if path.is_dir()),
        *(_action(path) for path in _grandchildren(root / "actions") if path.suffix == ".json"),
        *(_object(path) for path in _grandchildren(root / "objects") if path.is_dir()),
        *(_whole("snapshots", path.name, path) for path in _children(root / "work")),
        *(_cached(path, root) for path in _files(root / "cache")),
        *(_whole("quarantine", path.name, path) for path in _children(root / "quarantine")),
        *(_whole("leftovers", f"tmp/{path.name}", path) for path in _children(root / "tmp")),
        *(_whole("leftovers", str(path.relative_to(root)), path) for path in _left_over(root)),
    ]
    return Inventory(
        tuple(items), sum(_measured(path)[0] for path in root.iterdir() if path.is_file() and not _unfinished(path))
    )


def artifact_of(path: Path) -> str | None:
    """The object that the record of an action names; None where it cannot be read."""
    try:
        found = parse_json(path.read_bytes())["record"]["artifact"]
    except (OSError, ValueError, KeyError, TypeError):  # `verify` says what is wrong with it
        return None
    return found if isinstance(found, str) else None


def _run(path: Path) -> Item:
    stages = [(stage.get("key"), stage.get("artifact")) for stage in _stages(path)]
    keys = frozenset(key for key, _ in stages if isinstance(key, str))
    return _whole("runs", path.name, path, keys, frozenset(name for _, name in stages if isinstance(name, str)))


def _stages(run: Path) -> Iterator[dict[str, Any]]:
    """What a run says of its stages; one that was killed, or whose result is damaged, in its events."""
    result, _ = read_result(run)
    if result is not None:
        yield from result["stages"]
        return
    for event in events_of(run):
        outcome = event.get("outcome")
        yield from [outcome] if isinstance(outcome, dict) else ()


def _action(path: Path) -> Item:
    artifact = artifact_of(path)
    return _whole("actions", path.stem, path, artifacts=frozenset({artifact} if artifact else ()))


def _object(path: Path) -> Item:
    manifest = path / "manifest.json"
    used = manifest if manifest.exists() else path
    return Item("objects", path.name, path, _measured(path)[0], _changed(used))


def _cached(path: Path, root: Path) -> Item:
    kind: Kind = "leftovers" if _TEMPFILE.fullmatch(path.name) else "cache"
    size, used = 0, 0.0
    with suppress(FileNotFoundError):
        found = path.stat()
        size, used = found.st_size, max(found.st_atime, found.st_mtime)
    return Item(kind, str(path.relative_to(root)), path, size, used)


def _whole(
    kind: Kind,
    name: str,
    path: Path,
    keys: frozenset[str] = frozenset(),
    artifacts: frozenset[str] = frozenset(),
) -> Item:
    size, used = _measured(path)
    return Item(kind, name, path, size, used, keys, artifacts)


def _left_over(root: Path) -> Iterator[Path]:
    """Files of writes that never ended, outside the folders that go as a whole."""
    for folder in (root, *_children(root / "actions")):
        yield from (path for path in _children(folder) if _unfinished(path))


def _unfinished(path: Path) -> bool:
    return path.name.endswith(atomic.TEMPORARY) and path.is_file()


def _children(folder: Path) -> list[Path]:
    try:
        return sorted(path for path in folder.iterdir() if not path.name.startswith(".") or _unfinished(path))
    except (FileNotFoundError, NotADirectoryError):
        return []


def _grandchildren(folder: Path) -> Iterator[Path]:
    for child in _children(folder):
        yield from _children(child)


def _files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file()) if folder.is_dir() else []


def _measured(path: Path) -> tuple[int, float]:
    """The bytes of a file or of all files in a folder, and when the last of it was changed."""
    size, newest = 0, 0.0
    for inside, is_folder in _entries(path):
        with suppress(FileNotFoundError):
            found = os.lstat(inside)
            size += 0 if is_folder else found.st_size
            newest = max(newest, found.st_mtime)
    return size, newest


def _entries(path: Path) -> Iterator[tuple[str, bool]]:
    """A path and all that lies below it, each with whether it is a folder."""
    yield str(path), path.is_dir()
    for folder, folders, files in os.walk(path):
        yield from ((os.path.join(folder, name), True) for name in folders)
        yield from ((os.path.join(folder, name), False) for name in files)


def _changed(path: Path) -> float:
    with suppress(FileNotFoundError):
        return os.lstat(path).st_mtime
    return 0.0
