"""Training state on disk: the newest snapshot and the one before it.

A snapshot is proved loadable before it takes the place of the last good one. It is read with
``weights_only=True`` after its checksums were verified, so a damaged or foreign file is set aside, not trusted.
"""

from __future__ import annotations

import json
import os
import pickle
import struct
import zipfile
import zlib
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from mcomp.errors import StoreError
from mcomp.store import atomic
from mcomp.store.digest import parse_json
from mcomp.store.tensors import write_state

NEWEST, PREVIOUS, PROGRESS = "snapshot.pt", "previous.pt", "progress.json"
PENDING = f"pending{atomic.TEMPORARY}"

#: What zipfile, zlib, pickle and torch raise over a file with any of its bytes changed or missing.
_UNREADABLE = (
    OSError,
    EOFError,
    RuntimeError,
    ValueError,
    LookupError,
    TypeError,
    AttributeError,
    zipfile.BadZipFile,
    zlib.error,
    struct.error,
    pickle.UnpicklingError,
)


def save_snapshot(folder: Path, state: dict[str, Any], progress: dict[str, Any] | None = None) -> None:
    """Write ``state`` as the newest snapshot; the one before is kept beside it.

    The caller holds the action's lock, so there is one writer. It may be killed at any instruction: the new snapshot is
    on the disk in full before the last good one is renamed, and one of the two has its name at any time.

    Args:
        folder: the work folder of one action.
        state: nested dicts, lists and tuples of tensors, numbers and strings.
        progress: what to say of it without torch, e.g. ``{"epoch": 3, "epochs": 5, "step": 66}``.

    Raises:
        StoreError: MC302/MC303 the disk is full or read-only; MC307 ``state`` holds something that could not be read
            back safely.
    """
    # a fixed name: what a killed process left half written is overwritten, and never piles up
    pending = atomic.make_folder(folder) / PENDING
    note = {**(progress or {}), "saved_at": f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ}"}
    with atomic.storage_errors(folder / NEWEST):
        try:
            with open(pending, "wb") as file:
                write_state(file, state)
                file.flush()
                os.fsync(file.fileno())
            _prove_loadable(pending)
            if (folder / NEWEST).exists():
                os.replace(folder / NEWEST, folder / PREVIOUS)
            os.replace(pending, folder / NEWEST)
        finally:
            pending.unlink(missing_ok=True)
        _write_note(folder, note)
        atomic.sync_folder(folder)


def load_snapshot(folder: Path, notify: Callable[[str], None] = lambda _sentence: None) -> dict[str, Any] | None:
    """The newest good snapshot of ``folder``, tensors on the CPU; None when there is none.

    A damaged file is renamed to ``<name>.corrupt``, ``notify`` is told, and the one before it is tried.
    """
    for name in (NEWEST, PREVIOUS):
        path = folder / name
        if not path.exists():
            continue
        found, why = _read(path)
        if found is not None:
            return found
        aside = path.with_suffix(".corrupt")
        with atomic.storage_errors(path):
            os.replace(path, aside)
        then = "the one before it serves" if name == NEWEST and (folder / PREVIOUS).exists() else "training starts over"
        notify(f"a training snapshot is damaged ({why}) and was renamed to `{aside}`; {then}")
    return None


def snapshot_faults(folder: Path, *, deep: bool) -> dict[str, str]:
    """Snapshots of ``folder`` that do not read back, as file name to what is wrong; without torch.

    Args:
        folder: the work folder of one action, whose lock the caller holds.
        deep: read every byte and compare the checksums; otherwise only the file's directory, which stands at its end.
    """
    found = {}
    for name in (NEWEST, PREVIOUS):
        if (folder / name).exists() and (fault := _archive_fault(folder / name, deep=deep)):
            found[name] = fault
    return found


def progress_of(folder: Path) -> dict[str, Any] | None:
    """What :func:`save_snapshot` was told of the newest snapshot, read without torch; None without a snapshot."""
    if not any((folder / name).exists() for name in (NEWEST, PREVIOUS)):
        return None
    with suppress(OSError, ValueError):  # a snapshot without its note is still a snapshot
        found = parse_json((folder / PROGRESS).read_bytes())
        if isinstance(found, dict):
            return found
    return {"epoch": None}


def _write_note(folder: Path, note: dict[str, Any]) -> None:
    """Put the note beside the snapshot. Not synced: it only informs, and a torn one counts as none."""
    pending = folder / f"{PROGRESS}{atomic.TEMPORARY}"
    pending.write_text(json.dumps(note) + "\n", encoding="utf-8")
    os.replace(pending, folder / PROGRESS)


def _read(path: Path) -> tuple[dict[str, Any] | None, str]:
    """The state in ``path``, or None and what is wrong with it."""
    import torch

    fault = _archive_fault(path, deep=True)  # torch itself would read what fails its checksum
    if fault:
        return None, fault
    try:
        found = torch.load(path, map_location="cpu", weights_only=True)
    except _UNREADABLE as error:
        return None, _said(error)
    return (found, "") if isinstance(found, dict) else (None, f"it holds a `{type(found).__name__}`")


def _prove_loadable(path: Path) -> None:
    import torch

    try:
        torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except pickle.UnpicklingError as error:
        raise StoreError(
            "a snapshot holds something that cannot be read back safely",
            code="MC307",
            why=_said(error),
            hint="save tensors, numbers, strings, lists and dicts only, e.g. `state_dict()`s",
        ) from error


def _archive_fault(path: Path, *, deep: bool) -> str:
    """What is wrong with a file that ``torch.save`` wrote, nothing when it is whole."""
    try:
        with zipfile.ZipFile(path) as archive:
            bad = archive.testzip() if deep else None
    except _UNREADABLE as error:
        return f"{_said(error)}; {path.stat().st_size} bytes"
    return f"its part `{bad}` fails its checksum" if bad is not None else ""


def _said(error: Exception) -> str:
    """The first line of a message that may have none."""
    return str(error).strip().partition("\n")[0] or type(error).__name__
