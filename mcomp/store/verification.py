"""Read a whole store and compare every digest; what is damaged is set aside, so that the next run makes it anew."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mcomp.errors import StoreError
from mcomp.store import snapshot
from mcomp.store.inventory import Item, take
from mcomp.store.runs import RESULT, result_fault

if TYPE_CHECKING:
    from mcomp.store.content_store import Store

#: ``(things checked, things in all, bytes read)``, after each.
Progress = Callable[[int, int, int], None]


@dataclass(frozen=True)
class Damage:
    """One thing that is not as it was written."""

    kind: str
    name: str
    faults: tuple[str, ...]


@dataclass
class Verification:
    """What reading a store showed.

    ``checked`` counts objects, actions, snapshots and runs; ``in_use`` names snapshots that do not read back because a
    process is writing them now.
    """

    store: Path
    quick: bool
    checked: dict[str, int] = field(default_factory=lambda: dict.fromkeys(_CHECKS, 0))
    bytes: int = 0
    damaged: list[Damage] = field(default_factory=list)
    in_use: list[str] = field(default_factory=list)
    notices: list[str] = field(default_factory=list)

    @property
    def ok(self) -> bool:
        """True when nothing was damaged."""
        return not self.damaged

    def as_dict(self) -> dict[str, Any]:
        """The object that ``verify --json`` prints."""
        return {
            "store": str(self.store),
            "quick": self.quick,
            **self.checked,
            "bytes": self.bytes,
            "corrupt": [{"kind": one.kind, "name": one.name, "faults": list(one.faults)} for one in self.damaged],
            "in_use": self.in_use,
            "notices": self.notices,
        }


def check(store: Store, *, quick: bool = False, progress: Progress | None = None) -> Verification:
    """Compare every object, action record and snapshot with its digests, and look at every run's result.

    Objects come first, then the records that name them: a record whose object was just set aside goes with it, and the
    next run sees a stage that never ran. Processes may use the store meanwhile.

    Args:
        store: what to read; one that does not exist is whole.
        quick: compare presence and sizes only.
        progress: told after each thing.
    """
    result = Verification(store.root, quick)
    if not store.exists():
        result.notices.append("there is no store here")
        return result
    inventory = take(store.root)
    items = [*inventory.of("objects"), *inventory.of("actions"), *inventory.of("snapshots"), *inventory.of("runs")]
    notify, store.notify = store.notify, result.notices.append
    try:
        for number, item in enumerate(items, 1):
            faults = _CHECKS[item.kind](store, item, quick, result)
            if faults:
                result.damaged.append(Damage(item.kind, item.name, tuple(faults)))
            result.checked[item.kind] += 1
            result.bytes += item.bytes
            if progress is not None:
                progress(number, len(items), result.bytes)
    finally:
        store.notify = notify
    return result


def _object(store: Store, item: Item, quick: bool, result: Verification) -> list[str]:
    faults = store.verify(item.name, deep=not quick)
    if not faults or not item.path.exists():  # gone: collected meanwhile
        return []
    store.quarantine(item.name, "; ".join(faults))
    return faults


def _action(store: Store, item: Item, quick: bool, result: Verification) -> list[str]:
    fault = store.action_fault(item.path)
    if not fault:
        return []
    store.set_aside(item.path, f"action {item.name[:16]}: {fault}")
    return [fault]


def _snapshots(store: Store, item: Item, quick: bool, result: Verification) -> list[str]:
    # read without the lock: whoever wants to compute the stage meanwhile must not be sent away
    found = snapshot.snapshot_faults(item.path, deep=not quick)
    if not found:
        return []
    try:
        with store.lock(item.name, wait=False):
            found = snapshot.snapshot_faults(item.path, deep=not quick)  # it may have been half written
            for name, fault in found.items():
                store.set_aside(item.path / name, f"snapshot `{name}` of {item.name[:16]}: {fault}")
    except StoreError as error:
        if error.code == "MC301":
            result.in_use.append(item.name)
            return []
        if error.code != "MC303":  # in a read-only store nobody writes
            raise
    return [f"`{name}`: {fault}" for name, fault in found.items()]


def _run(store: Store, item: Item, quick: bool, result: Verification) -> list[str]:
    fault = result_fault(item.path)
    if not fault:
        return []
    store.set_aside(item.path / RESULT, f"result of run {item.name}: {fault}")
    return [f"`{RESULT}`: {fault}"]


_CHECKS: dict[str, Callable[[Store, Item, bool, Verification], list[str]]] = {
    "objects": _object,
    "actions": _action,
    "snapshots": _snapshots,
    "runs": _run,
}
