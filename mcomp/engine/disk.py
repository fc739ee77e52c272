"""Whether the store's disk takes what a plan would write. No torch."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from mcomp.errors import PreflightError

#: Kept free beyond what is needed: records, events, reports, and another process's small change.
RESERVE_BYTES = 16_000_000


def standing(root: Path) -> Path:
    """The store's folder, or the nearest one above it that exists."""
    return next(folder for folder in (root.absolute(), *root.absolute().parents) if folder.is_dir())


def free_bytes(root: Path) -> int:
    """What an ordinary person may still write to the disk that holds ``root``."""
    return shutil.disk_usage(standing(root)).free


def refuse_unwritable(root: Path) -> None:
    """See that results could be kept at all.

    Raises:
        PreflightError: MC281, the folder or the disk is read-only for this person.
    """
    folder = standing(root)
    parts = [folder, *(folder / name for name in ("objects", "actions", "work", "runs", "tmp", "locks"))]
    refused = next((part for part in parts if part.is_dir() and not os.access(part, os.W_OK | os.X_OK)), None)
    if refused is not None:
        raise PreflightError(
            f"the store `{root}` cannot be written",
            code="MC281",
            why=f"`{refused}` is read-only for this user",
            hint="name another folder with `--store <folder>`",
        )


def refuse_full(root: Path, needed: int | None) -> None:
    """See that there is room.

    Args:
        root: of the store.
        needed: bytes, at the most; None where nobody knows, and then only a full disk is refused.

    Raises:
        PreflightError: MC280, there is not.
    """
    free = free_bytes(root)
    wanted = (needed or 0) + RESERVE_BYTES
    if free < wanted:
        raise PreflightError(
            f"the disk of the store `{root}` has {free / 1e6:.0f} MB free, the run needs up to {wanted / 1e6:.0f} MB",
            code="MC280",
            hint="free some space, or name a folder on another disk with `--store <folder>`",
        )
