"""Garbage collection: runs by age and number, then whatever no run leads to any more.

Safe beside processes that use the store. What a live one has touched is kept (:mod:`mcomp.store.usage`). What is to go
is first renamed away and then looked at again: a use that came in between is seen and the thing put back, a use that
comes later finds nothing and makes it anew. Nobody waits for a collection, and a collection waits for nobody.
"""

from __future__ import annotations

import errno
import math
import os
import shutil
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mcomp.errors import StoreError
from mcomp.store import locks, staging, usage
from mcomp.store.atomic import make_folder, storage_errors
from mcomp.store.inventory import KINDS, Inventory, Item, artifact_of, take

DAY = 86400.0
#: Snapshots, caches and quarantined things that nobody needed for so long go even when no age is given.
FORGOTTEN = 30 * DAY
_YOUNG = 600.0  # seconds; an unfinished file this young may be of a process that has not marked its use


@dataclass(frozen=True)
class Policy:
    """What may go beside what no run leads to.

    Attributes:
        older_than: seconds; runs, snapshots, caches and quarantined things not used for longer go.
        max_bytes: after that, the oldest go until the store is no larger; the newest run stays.
        keep_runs: runs but the newest so many go; with ``older_than``, only those of them that are older.
            Every point of a sweep is a run.
    """

    older_than: float | None = None
    max_bytes: int | None = None
    keep_runs: int | None = None


@dataclass(frozen=True)
class _Horizon:
    """Up to when a use is over and done with; ``alone``, nobody else uses the store."""

    since: float
    alone: bool

    def frees(self, item: Item) -> bool:
        """Whether nobody can be using ``item``; of caches that are only read, times say little."""
        return item.used < self.since and (self.alone or item.kind != "cache")


@dataclass(frozen=True)
class Removal:
    """One thing that goes, and why."""

    item: Item
    reason: str


@dataclass
class Collection:
    """What a collection removed, or would remove."""

    store: Path
    dry_run: bool
    bytes_before: int = 0
    removed: list[Removal] = field(default_factory=list)
    in_use: list[Item] = field(default_factory=list)
    processes: list[int] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    @property
    def bytes_freed(self) -> int:
        """Sum of the sizes of what went."""
        return sum(removal.item.bytes for removal in self.removed)

    def as_dict(self) -> dict[str, Any]:
        """The object that ``gc --json`` prints."""
        kinds = {kind: [one.item.bytes for one in self.removed if one.item.kind == kind] for kind in KINDS}
        return {
            "store": str(self.store),
            "dry_run": self.dry_run,
            "bytes_before": self.bytes_before,
            "bytes_freed": self.bytes_freed,
            "bytes_after": self.bytes_before - self.bytes_freed,
            "removed": {kind: {"count": len(sizes), "bytes": sum(sizes)} for kind, sizes in kinds.items()},
            "in_use": {
                "processes": self.processes,
                "count": len(self.in_use),
                "bytes": sum(item.bytes for item in self.in_use),
            },
            "items": [
                {"kind": one.item.kind, "name": one.item.name, "bytes": one.item.bytes, "reason": one.reason}
                for one in self.removed
            ],
            "notes": self.notes,
        }


def collect(root: Path, policy: Policy, *, dry_run: bool = False) -> Collection:
    """Remove from the store at ``root`` what nothing needs any more; ``dry_run`` only says what that is.

    Raises:
        StoreError: MC331 another collection is under way; MC303 the store is read-only.
    """
    with _alone(root), storage_errors(root / "locks"):
        began = (root / "locks" / "gc.lock").stat().st_mtime  # by the file system's clock, which stamps every use
        users = usage.users(root / "locks")
        inventory = take(root)
        users += usage.users(root / "locks")
        now = time.time()
        # who came only while we looked has used nothing before we began, so that much is safe without asking
        horizon = _Horizon(min([began, *(user.since for user in users)]), alone=not users)
        chosen = _choose(inventory, policy, horizon, now)
        result = Collection(root, dry_run, inventory.bytes, processes=sorted({user.process for user in users}))
        if users:
            alone = {removal.item for removal in _choose(inventory, policy, _Horizon(began, alone=True), now)}
            result.in_use = sorted(alone - {removal.item for removal in chosen}, key=lambda item: item.name)
        result.removed = chosen if dry_run else _remove(root, chosen)
        left = result.bytes_before - result.bytes_freed
        if policy.max_bytes is not None and left > policy.max_bytes:
            result.notes.append("what is left belongs to the newest run, to unfinished stages, or is in use")
        if not dry_run:
            _remove_free_locks(root / "locks")
    return result


@contextmanager
def _alone(root: Path) -> Iterator[None]:
    with ExitStack() as stack:
        try:
            stack.enter_context(locks.hold(root / "locks" / "gc.lock", wait=False))
        except StoreError as error:
            if error.code != "MC301":
                raise
            raise StoreError(
                f"another `mcomp gc` is at work in `{root}`",
                code="MC331",
                why=error.message,
                hint="wait until it is done",
            ) from error
        yield


def _choose(inventory: Inventory, policy: Policy, horizon: _Horizon, now: float) -> list[Removal]:
    """What goes, in the order in which it may go: first what refers, then what is referred to."""
    age = FORGOTTEN if policy.older_than is None else policy.older_than
    chosen = [
        Removal(item, "left by a process that is gone" if item.kind == "leftovers" else f"not used for {_days(age)}")
        for item in inventory.items
        if now - item.used > _limit(item, age) and horizon.frees(item)
    ]
    finished = {action.name: action.used for action in inventory.of("actions")}
    already = {removal.item for removal in chosen}
    chosen += [
        Removal(item, "its stage is finished")  # the process was killed between the record and this
        for item in inventory.of("snapshots")
        if item not in already and horizon.frees(item) and item.used < finished.get(item.name, 0.0)
    ]
    runs = sorted(inventory.of("runs"), key=lambda run: run.name, reverse=True)
    expired = {run: reason for rank, run in enumerate(runs) if (reason := _expiry(run, rank, policy, now))}
    gone = [Removal(run, reason) for run, reason in expired.items() if horizon.frees(run)]
    chosen += _with_unreachable(inventory, gone, horizon)
    if policy.max_bytes is None or inventory.bytes - _sum(chosen) <= policy.max_bytes:
        return chosen
    return _shrunk(inventory, policy.max_bytes, chosen, runs, horizon)


def _limit(item: Item, age: float) -> float:
    """Seconds without use after which a thing goes by itself; what runs lead to goes with them."""
    if item.kind in ("snapshots", "cache", "quarantine"):
        return age
    return _YOUNG if item.kind == "leftovers" else math.inf


def _expiry(run: Item, rank: int, policy: Policy, now: float) -> str:
    """Why a run goes, empty when it stays; ``rank`` counts from the newest."""
    old = policy.older_than is not None and now - run.used > policy.older_than
    many = policy.keep_runs is not None and rank >= policy.keep_runs
    if policy.older_than is None:
        return f"beyond the newest {policy.keep_runs} runs" if many else ""
    return f"older than {_days(policy.older_than)}" if old and (many or policy.keep_runs is None) else ""


def _with_unreachable(inventory: Inventory, gone: Iterable[Removal], horizon: _Horizon) -> list[Removal]:
    """``gone`` runs, and what no other run, and nothing in use, leads to."""
    gone = list(gone)
    left_out = {removal.item for removal in gone}
    runs = [run for run in inventory.of("runs") if run not in left_out]
    keys = frozenset[str]().union(*(run.keys for run in runs))
    objects = {item.name for item in inventory.of("objects")}
    actions, needed = [], frozenset[str]().union(*(run.artifacts for run in runs))
    for action in inventory.of("actions"):
        if horizon.frees(action) and not action.artifacts <= objects:
            actions.append(Removal(action, "its artifact is gone"))
        elif horizon.frees(action) and action.name not in keys:
            actions.append(Removal(action, "no run refers to it"))
        else:
            needed |= action.artifacts
    unreachable = [item for item in inventory.of("objects") if horizon.frees(item) and item.name not in needed]
    return [*gone, *actions, *(Removal(item, "nothing refers to it") for item in unreachable)]


def _shrunk(
    inventory: Inventory, limit: int, chosen: Sequence[Removal], runs: Sequence[Item], horizon: _Horizon
) -> list[Removal]:
    """``chosen``, and the oldest beyond it until no more than ``limit`` bytes are left."""
    reason = f"the store was larger than {limit} bytes"
    already = {removal.item for removal in chosen}
    loose = [removal for removal in chosen if removal.item.kind not in ("runs", "actions", "objects")]
    gone = [removal for removal in chosen if removal.item.kind == "runs"]
    spare = [item for item in inventory.items if item.kind in ("quarantine", "cache") and item not in already]
    left = inventory.bytes - _sum(chosen)
    for item in sorted(spare, key=lambda item: (item.kind == "cache", item.used)):
        if left > limit and horizon.frees(item):
            loose.append(Removal(item, reason))
            left -= item.bytes
    oldest_first = [run for run in reversed(runs[1:]) if run not in already and horizon.frees(run)]
    fewest, most = 0, len(oldest_first)
    while fewest < most:  # the more runs go, the smaller the store: look for the fewest that suffice
        middle = (fewest + most) // 2
        trial = _with_unreachable(inventory, [*gone, *(Removal(run, reason) for run in oldest_first[:middle])], horizon)
        if inventory.bytes - _sum(loose) - _sum(trial) <= limit:
            most = middle
        else:
            fewest = middle + 1
    more = [Removal(run, reason) for run in oldest_first[:fewest]]
    return [*loose, *_with_unreachable(inventory, [*gone, *more], horizon)]


def _remove(root: Path, chosen: Sequence[Removal]) -> list[Removal]:
    """Take away what is still as it was when it was chosen."""
    done = [one for one in chosen if one.item.kind in ("leftovers", "snapshots") and _remove_owned(root, one.item)]
    needed: set[str] = set()
    with staging.folder(make_folder(root / "tmp")) as trash:
        for number, removal in enumerate(chosen):
            item = removal.item
            if item.kind in ("leftovers", "snapshots") or (item.kind == "objects" and item.name in needed):
                continue
            if _take_away(item, trash / str(number)):
                done.append(removal)
            elif item.kind == "actions":
                needed |= {artifact_of(item.path) or ""}
    return done


def _take_away(item: Item, aside: Path) -> bool:
    """Move a thing aside and remove it, unless it was used since it was looked at."""
    stamp = Path("manifest.json") if item.kind == "objects" and (item.path / "manifest.json").exists() else Path()
    with storage_errors(item.path):
        try:
            os.rename(item.path, aside)
        except FileNotFoundError:
            return False
        if item.kind in ("objects", "actions") and (aside / stamp).stat().st_mtime > item.used:
            with suppress(OSError):  # whoever made it anew meanwhile made the same
                os.rename(aside, item.path)
            return False
        _delete(aside)
    return True


def _remove_owned(root: Path, item: Item) -> bool:
    """Remove what has an owner by its lock; False while somebody holds that."""
    if item.kind == "leftovers":
        if item.name.startswith("tmp/") and item.path.is_dir() and not staging.is_abandoned(item.path):
            return False
        with storage_errors(item.path):
            _delete(item.path)
        return True
    try:
        with locks.hold(root / "locks" / f"{item.name}.lock", wait=False), storage_errors(item.path):
            _delete(item.path)
    except StoreError as error:
        if error.code != "MC301":
            raise
        return False
    return True


def _delete(path: Path) -> None:
    try:
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink()
    except OSError as error:
        if error.errno != errno.ENOENT:
            raise


def _remove_free_locks(folder: Path) -> None:
    """Lock files of processes that were killed; nobody holds them, they only lie there."""
    for path in folder.glob("*.lock"):
        if path.name == "gc.lock":
            continue
        try:
            with locks.hold(path, wait=False):
                continue  # letting go removes the file
        except StoreError as error:
            if error.code != "MC301":
                raise


def _sum(removals: Iterable[Removal]) -> int:
    return sum(removal.item.bytes for removal in removals)


def _days(seconds: float) -> str:
    return f"{seconds / DAY:g} days" if seconds >= DAY else f"{seconds / 3600:g} hours"
