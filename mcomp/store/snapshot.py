"""Training state on disk: the newest snapshot and the one before it.

A snapshot is proved loadable before it takes the place of the last good one. It is read with
``weights_only=True`` after its checksums were verified, so a damaged or foreign file is set aside, not trusted.
"""

from __future__ import annotations

import json
import os
import pickle
import zipfile
import zlib
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from mcomp.errors import StoreError
from mcomp.store import atomic
from mcomp.store.tensors import write_tensors

NEWEST, PREVIOUS, PROGRESS = "snapshot.pt", "previous.pt", "progress.json"


def save_snapshot(folder: Path, state: dict[str, Any], progress: dict[str, Any] | None = None) -> None:
    """Write ``state`` as the newest snapshot; the one before is kept beside it.

    Args:
        folder: the work folder of one action.
        state: nested dicts, lists and tuples of tensors, numbers and strings.
        progress: what to say of it without torch, e.g. ``{"epoch": 3, "epochs": 5, "step": 66}``.

    Raises:
        StoreError: MC302/MC303 the disk is full or read-only; MC307 ``state`` holds something that could not be read
            back safely.
    """
    pending = atomic.make_folder(folder) / f"pending{atomic.TEMPORARY}"
    try:
        write_tensors(pending, state)
        _prove_loadable(pending)
        with atomic.storage_errors(folder / NEWEST):
            if (folder / NEWEST).exists():
                os.replace(folder / NEWEST, folder / PREVIOUS)
            os.replace(pending, folder / NEWEST)
            atomic.sync_folder(folder)
    finally:
        pending.unlink(missing_ok=True)
    atomic.write_json(folder / PROGRESS, {**(progress or {}), "saved_at": f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ}"})


def load_snapshot(folder: Path) -> dict[str, Any] | None:
    """The newest good snapshot of ``folder``, tensors on the CPU; None when there is none.

    A damaged file is renamed to ``<name>.corrupt`` and the one before it is tried.
    """
    import torch

    for name in (NEWEST, PREVIOUS):
        path = folder / name
        if not path.exists():
            continue
        try:
            _check_sums(path)
            found = torch.load(path, map_location="cpu", weights_only=True)
        except (OSError, EOFError, RuntimeError, ValueError, zipfile.BadZipFile, zlib.error, pickle.UnpicklingError):
            found = None
        if isinstance(found, dict):
            return found
        with atomic.storage_errors(path):
            os.replace(path, path.with_suffix(".corrupt"))
    return None


def progress_of(folder: Path) -> dict[str, Any] | None:
    """What :func:`save_snapshot` was told of the newest snapshot, read without torch; None without a snapshot."""
    if not any((folder / name).exists() for name in (NEWEST, PREVIOUS)):
        return None
    with suppress(OSError, ValueError):  # a snapshot without its note is still a snapshot
        found = json.loads((folder / PROGRESS).read_bytes())
        if isinstance(found, dict):
            return found
    return {"epoch": None}


def _prove_loadable(path: Path) -> None:
    import torch

    try:
        torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except pickle.UnpicklingError as error:
        raise StoreError(
            "a snapshot holds something that cannot be read back safely",
            code="MC307",
            why=str(error).strip().partition("\n")[0],
            hint="save tensors, numbers, strings, lists and dicts only, e.g. `state_dict()`s",
        ) from error


def _check_sums(path: Path) -> None:
    """Refuse a file whose checksums do not match; torch itself would read it."""
    with zipfile.ZipFile(path) as archive:
        bad = archive.testzip()
    if bad is not None:
        raise ValueError(f"`{path}`: the part `{bad}` is damaged")
