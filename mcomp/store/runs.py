"""The folder of one run, and the list of all."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from mcomp.store import atomic
from mcomp.store.digest import parse_json


@dataclass(frozen=True)
class Run:
    """The folder of a run under way."""

    path: Path

    @property
    def id(self) -> str:
        """``<utc>-<name>-<k8>``."""
        return self.path.name

    def write_text(self, name: str, text: str) -> Path:
        """Write a text file of the run, atomically, and return its path."""
        atomic.write_text(self.path / name, text)
        return self.path / name

    def write_json(self, name: str, obj: Any) -> Path:
        """Write a JSON file of the run, atomically, and return its path; NaN and infinities become strings."""
        atomic.write_json(self.path / name, obj)
        return self.path / name


@dataclass(frozen=True)
class RunRecord:
    """A run of the past; ``result`` is its ``result.json``, None when it did not get that far."""

    id: str
    path: Path
    result: dict[str, Any] | None


def create(folder: Path, name: str, key8: str) -> Run:
    """Make the folder of a new run under ``folder``; the id is unique and sorts by time."""
    label = re.sub(r"[^A-Za-z0-9_.-]+", "_", name)[:64] or "run"
    atomic.make_folder(folder)
    with atomic.storage_errors(folder / label):
        while True:
            now = datetime.now(UTC)
            path = folder / f"{now:%Y%m%dT%H%M%S}{now.microsecond // 1000:03d}Z-{label}-{key8}"
            try:
                path.mkdir()
            except FileExistsError:  # another run within the same millisecond
                continue
            return Run(path)


def records(folder: Path) -> list[RunRecord]:
    """Every run under ``folder``, newest first."""
    if not folder.is_dir():
        return []
    paths = sorted((path for path in folder.iterdir() if path.is_dir()), key=lambda path: path.name, reverse=True)
    return [RunRecord(path.name, path, _result(path / "result.json")) for path in paths]


def _result(path: Path) -> dict[str, Any] | None:
    try:
        found = parse_json(path.read_bytes())
    except (OSError, ValueError):  # killed before it was written, or damaged: the run is listed without a result
        return None
    return found if isinstance(found, dict) else None
