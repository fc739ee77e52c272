"""The folder of one run, and the list of all."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import lru_cache
from pathlib import Path
from typing import Any

from mcomp.store import atomic
from mcomp.store.digest import parse_json

RESULT = "result.json"
_DIGEST = re.compile(r"[0-9a-f]{64}")


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
    """A run of the past; ``result`` is its ``result.json``, None when it did not get that far.

    A malformed one counts as none, so that whoever reads one may rely on its shape. It is shared: to be read only.
    """

    id: str
    path: Path
    result: dict[str, Any] | None

    @property
    def name(self) -> str:
        """Of its recipe; of a run that was killed, as its folder has it."""
        return str(self.result["name"]) if self.result else self.id.partition("-")[2].rpartition("-")[0]

    @property
    def stages(self) -> list[dict[str, Any]]:
        """What its result says of each stage; nothing without one."""
        found: list[dict[str, Any]] = self.result["stages"] if self.result else []
        return found

    @property
    def sweep(self) -> dict[str, Any]:
        """What a sweep set for it, path to value."""
        return (self.result or {}).get("sweep") or {}

    def is_of(self, recipe_name: str) -> bool:
        """Whether it has a result, and that is of a recipe by this name."""
        return self.result is not None and self.name == recipe_name


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
    return [RunRecord(path.name, path, read_result(path)[0]) for path in paths]


def result_fault(folder: Path) -> str:
    """What is wrong with the result of the run in ``folder``; nothing where there is none yet."""
    return read_result(folder)[1]


def read_result(folder: Path) -> tuple[dict[str, Any] | None, str]:
    """The result of the run in ``folder`` and what is wrong with it; neither where the run was killed before that."""
    path = folder / RESULT
    try:
        stamp = path.stat()
        return _parsed(path, stamp.st_mtime_ns, stamp.st_size)
    except FileNotFoundError:
        return None, ""
    except OSError as error:
        return None, f"it cannot be read as JSON: {error}"


@lru_cache(maxsize=4096)  # every point of a sweep looks at all runs of the store
def _parsed(path: Path, _mtime_ns: int, _size: int) -> tuple[dict[str, Any] | None, str]:
    try:
        found = parse_json(path.read_bytes())
    except ValueError as error:
        return None, f"it cannot be read as JSON: {error}"
    if not isinstance(found, dict):
        return None, "it is no mapping"
    wrong = _misfit(found, _RUN)
    if wrong:
        return None, f"`{wrong}` is not what a run writes there"
    for number, stage in enumerate(found["stages"]):
        wrong = outcome_fault(stage)
        if wrong:
            return None, f"`stages[{number}].{wrong}` is not what a run writes there"
    return found, ""


def outcome_fault(stage: object) -> str:
    """The field of a stage's outcome that is not as :class:`~mcomp.engine.results.StageOutcome` has it; or nothing."""
    return _misfit(stage, _STAGE) if isinstance(stage, dict) else "id"


def _misfit(found: dict[str, Any], wanted: dict[str, Callable[[Any], bool]]) -> str:
    """The first field that is not as :class:`~mcomp.engine.results.RunResult` has it."""
    return next((name for name, fits in wanted.items() if not fits(found.get(name))), "")


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


def _is_digest(value: Any) -> bool:
    return value is None or (isinstance(value, str) and _DIGEST.fullmatch(value) is not None)


def _is_measured(value: Any) -> bool:
    return isinstance(value, dict) and all(_is_number(one) or _is_text(one) for one in value.values())


_RUN: dict[str, Callable[[Any], bool]] = {
    "name": _is_text,
    "status": _is_text,
    "seconds": _is_number,
    "stages": lambda value: isinstance(value, list),
    "sweep": lambda value: value is None or isinstance(value, dict),
}
_STAGE: dict[str, Callable[[Any], bool]] = {
    "id": _is_text,
    "uses": _is_text,
    "from": lambda value: value is None or _is_text(value),
    "status": _is_text,
    "key": _is_digest,
    "artifact": _is_digest,
    "seconds": _is_number,
    "metrics": _is_measured,
    "files": lambda value: isinstance(value, dict) and all(map(_is_text, value.values())),
    "gates": lambda value: isinstance(value, list) and all(isinstance(one, dict) for one in value),
    "notes": lambda value: isinstance(value, list) and all(map(_is_text, value)),
}
