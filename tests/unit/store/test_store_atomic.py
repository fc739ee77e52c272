from __future__ import annotations

import errno
import json
import os
from pathlib import Path
from typing import Any

import pytest

from mcomp.errors import StoreError
from mcomp.store import atomic


def refuse(number: int) -> Any:
    def refusing(*_args: Any, **_kwargs: Any) -> None:
        raise OSError(number, os.strerror(number))

    return refusing


def leftovers(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir() if path.name.endswith(atomic.TEMPORARY)]


def test_a_written_file_holds_exactly_the_bytes_and_leaves_nothing_beside_it(tmp_path: Path) -> None:
    target = tmp_path / "deep" / "er" / "file.bin"
    atomic.write_bytes(target, b"\x00one")
    atomic.write_bytes(target, b"two")
    assert target.read_bytes() == b"two"
    assert [path.name for path in target.parent.iterdir()] == ["file.bin"]


def test_json_says_nan_and_infinity_in_words_and_keeps_unicode(tmp_path: Path) -> None:
    atomic.write_json(tmp_path / "a.json", {"loss": float("nan"), "top": [float("-inf"), 1.5], "γ": "é"})
    assert json.loads((tmp_path / "a.json").read_text()) == {"loss": "nan", "top": ["-inf", 1.5], "γ": "é"}
    assert "γ" in (tmp_path / "a.json").read_text()


@pytest.mark.parametrize("step", ["replace", "fsync"])
def test_a_crash_at_any_step_leaves_the_old_file_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    target = tmp_path / "file"
    atomic.write_bytes(target, b"old")
    monkeypatch.setattr(os, step, refuse(errno.EIO))
    with pytest.raises(StoreError) as caught:
        atomic.write_bytes(target, b"new")
    assert caught.value.code == "MC306"
    assert target.read_bytes() == b"old"
    assert leftovers(tmp_path) == []


def test_an_interruption_inside_the_write_leaves_the_old_file_whole(tmp_path: Path) -> None:
    target = tmp_path / "file"
    atomic.write_bytes(target, b"old")

    def interrupted() -> None:
        with atomic.replacing(target) as file:
            file.write(b"half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert target.read_bytes() == b"old"
    assert leftovers(tmp_path) == []


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_a_full_disk_is_named_with_its_folder_its_room_and_a_way_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    monkeypatch.setattr(os, "fsync", refuse(number))
    with pytest.raises(StoreError, match="MiB free in") as caught:
        atomic.write_bytes(tmp_path / "file", b"x")
    assert caught.value.code == "MC302"
    assert caught.value.exit_code == 8
    assert str(tmp_path) in caught.value.message
    assert "--store" in caught.value.hint


@pytest.mark.parametrize("number", [errno.EROFS, errno.EACCES])
def test_a_read_only_folder_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    monkeypatch.setattr(os, "replace", refuse(number))
    with pytest.raises(StoreError, match="cannot write") as caught:
        atomic.write_bytes(tmp_path / "file", b"x")
    assert caught.value.code == "MC303"


def test_a_file_where_a_folder_is_needed_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(StoreError, match="a file stands where a folder is needed"):
        atomic.write_bytes(tmp_path / "file" / "below", b"x")


def test_reading_tells_absent_from_unreadable(tmp_path: Path) -> None:
    assert atomic.read_bytes(tmp_path / "none") is None
    with pytest.raises(StoreError, match="cannot read"):
        atomic.read_bytes(tmp_path)


def test_a_file_system_that_syncs_no_folders_is_accepted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "fsync", refuse(errno.EINVAL))
    atomic.sync_folder(tmp_path)
