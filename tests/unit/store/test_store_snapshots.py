from __future__ import annotations

import errno
import functools
import os
import random
from pathlib import Path
from typing import Any

import pytest
import torch

from mcomp.errors import StoreError
from mcomp.store import snapshot
from mcomp.store.snapshot import load_snapshot, save_snapshot


def state(epoch: int) -> dict[str, Any]:
    return {"epoch": epoch, "model": {"w": torch.full((3, 2), float(epoch))}, "lists": [1, (2.5, "x"), None]}


def damage(path: Path) -> None:
    data = bytearray(path.read_bytes())
    at = data.find(torch.full((6,), float(2)).numpy().tobytes())
    assert at > 0
    data[at] ^= 0xFF
    path.write_bytes(data)


def test_a_snapshot_comes_back_bit_for_bit(tmp_path: Path) -> None:
    save_snapshot(tmp_path, state(3), {"epoch": 3, "epochs": 5})
    found = load_snapshot(tmp_path)
    assert found is not None
    assert torch.equal(found["model"]["w"], state(3)["model"]["w"])
    assert found["lists"] == [1, (2.5, "x"), None]
    assert snapshot.progress_of(tmp_path) is not None
    assert snapshot.progress_of(tmp_path)["epochs"] == 5  # type: ignore[index]


def test_an_empty_folder_has_no_snapshot(tmp_path: Path) -> None:
    assert load_snapshot(tmp_path / "none") is None
    assert snapshot.progress_of(tmp_path / "none") is None


def test_a_damaged_snapshot_is_set_aside_and_the_one_before_it_serves(tmp_path: Path) -> None:
    save_snapshot(tmp_path, state(1))
    save_snapshot(tmp_path, state(2))
    damage(tmp_path / snapshot.NEWEST)  # torch.load alone would return the wrong numbers
    found = load_snapshot(tmp_path)
    assert found is not None
    assert found["epoch"] == 1
    assert (tmp_path / "snapshot.corrupt").exists()


def test_a_truncated_only_snapshot_counts_as_none(tmp_path: Path) -> None:
    save_snapshot(tmp_path, state(1))
    path = tmp_path / snapshot.NEWEST
    path.write_bytes(path.read_bytes()[:200])
    assert load_snapshot(tmp_path) is None
    assert snapshot.progress_of(tmp_path) is None


@pytest.mark.parametrize("call", range(1, 6))
def test_a_kill_at_any_rename_leaves_a_snapshot_to_go_on_from(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: int
) -> None:
    save_snapshot(tmp_path, state(1), {"epoch": 1})
    real, calls = os.replace, 0

    def dying(*args: Any) -> None:
        nonlocal calls
        calls += 1
        if calls == call:
            raise KeyboardInterrupt
        real(*args)

    monkeypatch.setattr(os, "replace", dying)
    try:
        save_snapshot(tmp_path, state(2), {"epoch": 2})
    except KeyboardInterrupt:
        monkeypatch.undo()
    found = load_snapshot(tmp_path)
    assert found is not None
    assert found["epoch"] in {1, 2}
    assert snapshot.progress_of(tmp_path) is not None


def test_what_could_not_be_read_back_is_refused_before_it_replaces_a_good_one(tmp_path: Path) -> None:
    save_snapshot(tmp_path, state(1))
    with pytest.raises(StoreError, match="cannot be read back safely") as caught:
        save_snapshot(tmp_path, {"epoch": 2, "function": functools.partial(print, 1)})
    assert caught.value.code == "MC307"
    found = load_snapshot(tmp_path)
    assert found is not None
    assert found["epoch"] == 1


class FullDisk:
    """Stands for a file on a disk that fills up."""

    def __init__(self, file: Any, room: int) -> None:
        self.file, self.room = file, room

    def write(self, data: Any) -> int:
        self.room -= len(data)
        if self.room < 0:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return int(self.file.write(data))

    def __getattr__(self, name: str) -> Any:
        return getattr(self.file, name)

    def __enter__(self) -> FullDisk:
        return self

    def __exit__(self, *_: object) -> None:
        self.file.close()


def test_a_disk_that_fills_up_while_torch_writes_is_reported_as_full(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_snapshot(tmp_path, state(1))
    real = open
    monkeypatch.setattr("mcomp.store.snapshot.open", lambda *args: FullDisk(real(*args), room=100), raising=False)
    with pytest.raises(StoreError) as caught:
        save_snapshot(tmp_path, {"epoch": 2, "w": torch.zeros(100_000)})
    assert caught.value.code == "MC302"
    monkeypatch.undo()
    assert [path.name for path in tmp_path.iterdir() if path.name.endswith(".tmp")] == []
    found = load_snapshot(tmp_path)
    assert found is not None
    assert found["epoch"] == 1


def test_no_damage_to_a_snapshot_is_more_than_a_notice(tmp_path: Path) -> None:
    save_snapshot(tmp_path, state(1))
    whole = (tmp_path / snapshot.NEWEST).read_bytes()
    chance = random.Random(5)
    damaged = [whole[:length] for length in (0, 1, 30, len(whole) // 2, len(whole) - 1)]
    for _ in range(150):
        content = bytearray(whole)
        for _ in range(chance.choice([1, 1, 8, 64])):
            content[chance.randrange(len(content))] = chance.randrange(256)
        damaged.append(bytes(content))
    for content in damaged:
        (tmp_path / snapshot.NEWEST).write_bytes(content)
        (tmp_path / snapshot.PREVIOUS).write_bytes(whole)
        told: list[str] = []
        found = load_snapshot(tmp_path, told.append)
        assert found is not None
        assert torch.equal(found["model"]["w"], state(1)["model"]["w"])
        assert len(told) == (not (tmp_path / snapshot.NEWEST).exists())


def test_a_snapshot_set_aside_is_spoken_of(tmp_path: Path) -> None:
    save_snapshot(tmp_path, state(1))
    save_snapshot(tmp_path, state(2))
    told: list[str] = []
    damage(tmp_path / snapshot.NEWEST)
    assert load_snapshot(tmp_path, told.append) is not None
    assert "the one before it serves" in told[0]
    (tmp_path / snapshot.PREVIOUS).write_bytes(b"")
    assert load_snapshot(tmp_path, told.append) is None
    assert "starts over" in told[1]


def test_snapshots_that_were_never_finished_do_not_pile_up(tmp_path: Path) -> None:
    for _ in range(3):
        (tmp_path / snapshot.PENDING).write_bytes(b"half of one")
        save_snapshot(tmp_path, state(1))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["previous.pt", "progress.json", "snapshot.pt"]


def test_code_in_a_snapshot_is_not_run(tmp_path: Path) -> None:
    class Trap:
        def __reduce__(self) -> Any:
            return (Path.touch, (tmp_path / "sprung",))

    torch.save({"epoch": 1, "trap": Trap()}, tmp_path / snapshot.NEWEST)
    assert load_snapshot(tmp_path) is None
    assert not (tmp_path / "sprung").exists()
