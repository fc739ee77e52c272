"""The store: immutable objects by content, finished actions by key, snapshots, runs and locks in one folder.

::

    objects/ab/<digest>/     what an action made; manifest.json is written last
    actions/ab/<key>.json    what is known of a finished action
    work/<key>/              training snapshots of one action; gone on success
    runs/<utc>-<name>-<k8>/  one folder per run
    quarantine/              damaged things, with the reason beside them
    tmp/ locks/
"""

from __future__ import annotations

import json
import os
import re
import secrets
import shutil
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mcomp.errors import StoreError, visible
from mcomp.store import atomic, locks, snapshot, staging, usage
from mcomp.store import runs as run_folders
from mcomp.store.digest import finite, parse_json, sha256_json
from mcomp.store.runs import Run, RunRecord

if TYPE_CHECKING:
    from mcomp.store.garbage import Collection, Policy
    from mcomp.store.verification import Progress, Verification

VERSION = 1
MANIFEST = "manifest.json"
SEAL = "seal"  # digest of all the rest of a manifest

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,127}")


class Store:
    """A content store under one folder. Reading one that does not exist finds nothing and makes nothing.

    Args:
        root: the folder, made with the first write.
        notify: called with a sentence when something damaged was set aside.
    """

    def __init__(self, root: Path | str, *, notify: Callable[[str], None] = lambda _sentence: None) -> None:
        self.root = Path(root)
        self.notify = notify
        self._ready = False
        self._release: Callable[[], object] | None = None

    # finished actions

    def action(self, key: str) -> dict[str, Any] | None:
        """The record of a finished action; None when there is none. A damaged one is set aside."""
        if not self.exists():
            return None
        self._mark_use()
        path = self._action_path(key)
        record, fault = self._read_action(path, key)
        if fault:
            self.set_aside(path, f"action {key[:16]}: {fault}")
        return record if record is not None and usage.touch(path) else None

    def _read_action(self, path: Path, key: str) -> tuple[dict[str, Any] | None, str]:
        """The record in ``path`` and what is wrong with it; neither where there is no file."""
        text = atomic.read_bytes(path)
        if text is None:
            return None, ""
        try:
            envelope = parse_json(text)
            record = envelope["record"]
            signed = (envelope["key"], envelope["sha256"]) == (key, sha256_json(record))
        except (ValueError, KeyError, TypeError):
            return None, "it is not a complete record"
        if not isinstance(record, dict):
            return None, "it is not a complete record"
        return (record, "") if signed else (None, "its checksum does not match")

    def action_fault(self, path: Path) -> str:
        """What is wrong with the record of a finished action, nothing when it is whole."""
        record, fault = self._read_action(path, path.stem)
        if record is None:
            return fault
        artifact = record.get("artifact")
        if isinstance(artifact, str) and not self._object_path(artifact).exists():
            return f"its artifact {artifact[:16]} is gone"
        return ""

    def put_action(self, key: str, record: dict[str, Any]) -> None:
        """Keep the record of a finished action; NaN and infinities become strings."""
        plain = json.loads(json.dumps(finite(record), allow_nan=False))  # as it will be read back
        self._prepare()
        atomic.write_json(self._action_path(key), {"key": key, "sha256": sha256_json(plain), "record": plain})

    # objects

    def staging(self) -> AbstractContextManager[Path]:
        """An empty folder inside the store to fill and :meth:`commit`; whatever was not committed is removed."""
        self._prepare()
        return staging.folder(self.root / "tmp")

    def commit(self, folder: Path, manifest: dict[str, Any]) -> str:
        """Make a staged folder an immutable object and return its digest.

        Args:
            folder: from :meth:`staging`. A ``manifest.json`` already in it is kept and ``manifest`` laid over it.
            manifest: JSON-able. ``identity`` is what the object is; ``hashed_files`` names the files whose bytes belong
                to its identity too. Everything else is only recorded. ``files`` (name to ``{"sha256", "bytes"}``) is
                filled in for every file that it does not name yet.

        Raises:
            StoreError: the disk is full or read-only.
        """
        self._prepare()
        with atomic.storage_errors(folder / MANIFEST):
            complete = staging.seal(folder, manifest, MANIFEST)
        digest = _digest_of(complete)
        whole = json.loads(json.dumps(finite({**complete, "digest": digest}), allow_nan=False))  # as it reads back
        atomic.write_json(folder / MANIFEST, {**whole, SEAL: sha256_json(whole)}, compact=True)
        target = self._object_path(digest)
        atomic.make_folder(target.parent)
        if target.exists() and (faults := self.verify(digest, deep=True)):
            self.quarantine(digest, f"damaged when the same object was made again: {faults[0]}")
        with atomic.storage_errors(target):
            if not (target.exists() and usage.touch(target / MANIFEST)):
                staging.move(folder, target)
        return digest

    def object(self, digest: str) -> Path | None:
        """The folder of an object; None when it is missing or incomplete."""
        return None if self.verify(digest) else self._object_path(digest)

    def manifest(self, digest: str) -> dict[str, Any] | None:
        """The manifest of an object; None when it is missing or unreadable."""
        if not self.exists():
            return None
        try:
            found = parse_json((self._object_path(digest) / MANIFEST).read_bytes())
        except (OSError, ValueError):  # `verify` says what is wrong with it
            return None
        return found if isinstance(found, dict) else None

    def verify(self, digest: str, deep: bool = False) -> list[str]:
        """What is wrong with an object, nothing when it is whole.

        Args:
            digest: of the object.
            deep: also read every file and compare its SHA-256; otherwise only presence and size.
        """
        manifest = self.manifest(digest)
        if manifest is None:
            return [f"object {digest[:16]}: no readable {MANIFEST}"]
        try:
            return [visible(fault) for fault in self._faults(digest, manifest, deep)]
        # what is never written: NaN, half a surrogate pair, a table of files that is none
        except (ValueError, KeyError, TypeError, AttributeError):
            return [f"its {MANIFEST} has other content than was written"]

    def _faults(self, digest: str, manifest: dict[str, Any], deep: bool) -> list[str]:
        found = staging.faults(self._object_path(digest), manifest, deep)
        if deep and _digest_of(manifest) != digest:
            found.append(f"its {MANIFEST} describes another object")
        rest = {name: value for name, value in manifest.items() if name != SEAL}
        if deep and not found and manifest.get(SEAL, sha256_json(rest)) != sha256_json(rest):
            found.append(f"its {MANIFEST} has other content than was written")
        return found

    def quarantine(self, digest: str, why: str) -> None:
        """Move an object out of the way, with the reason beside it."""
        path = self._object_path(digest)
        if path.exists():
            self.set_aside(path, f"object {digest[:16]}: {why}")

    # snapshots of unfinished actions

    def work_dir(self, key: str) -> Path:
        """The folder for the snapshots of one action, made if need be."""
        self._prepare()
        return atomic.make_folder(self._work_path(key))

    def has_work(self, key: str) -> dict[str, Any] | None:
        """How far a killed action came, e.g. ``{"epoch", "epochs"}``, read without torch; None without a snapshot."""
        return snapshot.progress_of(self._work_path(key)) if self.exists() else None

    def clear_work(self, key: str) -> None:
        """Remove the snapshots of an action that is done."""
        path = self._work_path(key)
        if path.exists():
            with atomic.storage_errors(path):
                shutil.rmtree(path)

    # locks and runs

    @contextmanager
    def lock(
        self,
        key: str,
        *,
        wait: bool = True,
        timeout: float | None = None,
        on_wait: Callable[[int], None] | None = None,
        should_stop: Callable[[], int] = lambda: 0,
    ) -> Iterator[None]:
        """Be the only process that computes ``key``; the arguments are those of :func:`mcomp.store.locks.hold`."""
        self._prepare()
        path = self.root / "locks" / f"{_checked(key)}.lock"
        with locks.hold(path, wait=wait, timeout=timeout, on_wait=on_wait, should_stop=should_stop):
            yield

    def new_run(self, name: str, key8: str) -> Run:
        """Make the folder ``runs/<utc>-<name>-<key8>``, unique."""
        self._prepare()
        return run_folders.create(self.root / "runs", name, key8)

    def runs(self) -> list[RunRecord]:
        """Every run of the past, newest first."""
        return run_folders.records(self.root / "runs") if self.exists() else []

    # care

    def collect(self, policy: Policy | None = None, *, dry_run: bool = False) -> Collection:
        """Remove what nothing needs any more; see :func:`mcomp.store.garbage.collect`."""
        from mcomp.store.garbage import Collection, Policy, collect

        if not self.exists():
            return Collection(self.root, dry_run, notes=["there is no store here"])
        return collect(self.root, policy or Policy(), dry_run=dry_run)

    def check(self, *, quick: bool = False, progress: Progress | None = None) -> Verification:
        """Read everything and set aside what is damaged; see :func:`mcomp.store.verification.check`."""
        from mcomp.store.verification import check

        return check(self, quick=quick, progress=progress)

    # layout

    @property
    def cache(self) -> Path | None:
        """Where what can be made again at any time may be kept; None until there is a store."""
        return self.root / "cache" if self.exists() else None

    def _action_path(self, key: str) -> Path:
        return self.root / "actions" / _checked(key)[:2] / f"{key}.json"

    def _object_path(self, digest: str) -> Path:
        return self.root / "objects" / _checked(digest)[:2] / digest

    def _work_path(self, key: str) -> Path:
        return self.root / "work" / _checked(key)

    def exists(self) -> bool:
        """Whether there is a store here that this mcomp reads."""
        if not self._ready:
            self._ready = self._known_version()
        return self._ready

    def _known_version(self) -> bool:
        text = atomic.read_bytes(self.root / "version")
        if text is None:
            return False
        found = text.decode(errors="replace").strip()
        if found != str(VERSION):
            raise StoreError(
                f"the store `{self.root}` has format {found!r:.40}, this mcomp reads {VERSION}",
                code="MC304",
                hint="use the mcomp that made it, or another folder with `--store <folder>`",
            )
        return True

    def _mark_use(self) -> None:
        """From now on nothing that this process touches is collected."""
        if self._release is None:
            self._release = usage.mark(self, self.root / "locks")

    def close(self) -> None:
        """Let the store's garbage collection have what only this process was using; done by itself at the end."""
        if self._release is not None:
            self._release()
            self._release = None

    def _prepare(self) -> None:
        """Lay out an absent store before the first write."""
        if self.exists():
            self._mark_use()
            return
        self.refuse_foreign_folder()
        atomic.write_text(self.root / "version", f"{VERSION}\n")  # first: it marks the folder as ours
        atomic.write_text(self.root / ".gitignore", "*\n")
        self._ready = True
        self._mark_use()

    def refuse_foreign_folder(self) -> None:
        """See that a store is here or can be laid out here.

        Raises:
            StoreError: MC304, the path is a file, or a folder with other files in it.
        """
        if self.root.exists() and not self.root.is_dir():
            raise StoreError(
                f"`{self.root}` is a file; a store is a folder",
                code="MC304",
                hint="name a folder with `--store <folder>`",
            )
        # a folder with a person's files must not get a .gitignore that hides them
        names = [path.name for path in self.root.iterdir()] if self.root.exists() else []
        foreign = [name for name in names if not name.endswith(atomic.TEMPORARY)]
        if foreign and "version" not in foreign:  # another process may be laying out the same store
            raise StoreError(
                f"`{self.root}` is not a store: it holds {len(foreign)} other files, e.g. `{min(foreign)}`",
                code="MC304",
                hint="name an empty or a new folder with `--store <folder>`, e.g. `--store .mcomp`",
            )

    def set_aside(self, path: Path, why: str) -> None:
        """Move something damaged into ``quarantine``, with the reason beside it, and say so."""
        folder = self.root / "quarantine" / f"{datetime.now(UTC):%Y%m%dT%H%M%SZ}-{secrets.token_hex(3)}-{path.name}"
        try:
            atomic.write_text(folder / "why.txt", why + "\n")
            os.replace(path, folder / path.name)
        except (OSError, StoreError) as error:
            # a read-only store is still worth reading: what is damaged counts as absent either way
            self.notify(f"{why}; it could not be moved to `{folder}`: {getattr(error, 'message', error)}")
            return
        self.notify(f"{why}; moved to `{folder}`")


def _digest_of(manifest: dict[str, Any]) -> str:
    """The name of an object: what it says it is, and the content of the files that belong to that."""
    hashed = {name: manifest["files"].get(name, {}).get("sha256") for name in manifest.get("hashed_files", [])}
    return sha256_json({"identity": manifest.get("identity"), "files": hashed})


def _checked(name: str) -> str:
    """``name`` as part of a path; anything that could leave the store is a fault of the caller."""
    if not _NAME.fullmatch(name):
        raise ValueError(f"{name!r:.80} is no key of a store")
    return name
