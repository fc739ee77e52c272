from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from mcomp.store import Store, locks
from mcomp.store.snapshot import save_snapshot
from tests.unit.store.stores import key_of, put_run, put_stage


@pytest.fixture
def store(tmp_path: Path) -> Store:
    store = Store(tmp_path / "store")
    put_run(store, "a", "b")
    for epoch in (1, 2):
        save_snapshot(store.work_dir(key_of("c")), {"epoch": epoch, "w": torch.randn(1000)})
    return store


def object_folder(store: Store, name: str) -> Path:
    _, digest = put_stage(store, name)
    return store.root / "objects" / digest[:2] / digest


def flip(path: Path, at: int | None = None) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2 if at is None else at] ^= 1
    path.write_bytes(content)


def test_a_whole_store_is_read_through_and_counted(store: Store) -> None:
    seen: list[tuple[int, int]] = []
    found = store.check(progress=lambda number, total, _size: seen.append((number, total)))
    assert found.ok
    assert found.checked == {"objects": 2, "actions": 2, "snapshots": 1, "runs": 1}
    assert seen == [(number, 6) for number in range(1, 7)]
    assert found.bytes > 2 * 1000 + 2 * 4000


def test_one_flipped_bit_in_a_file_is_found_unless_quick(store: Store) -> None:
    folder = object_folder(store, "a")
    flip(folder / "tensors.pt")
    assert store.check(quick=True).ok
    found = store.check()
    assert [(one.kind, one.name) for one in found.damaged] == [("objects", folder.name), ("actions", key_of("a"))]
    assert "other content" in found.damaged[0].faults[0]
    assert store.action(key_of("a")) is None
    assert store.action(key_of("b")) is not None
    assert store.check().ok
    reasons = [path.read_text() for path in (store.root / "quarantine").glob("*/why.txt")]
    assert any("other content" in reason for reason in reasons)


@pytest.mark.parametrize("quick", [True, False])
def test_a_missing_and_a_shortened_file_are_found_quickly_too(store: Store, quick: bool) -> None:
    (object_folder(store, "a") / "tensors.pt").unlink()
    shortened = object_folder(store, "b") / "tensors.pt"
    shortened.write_bytes(shortened.read_bytes()[:-1])
    found = store.check(quick=quick)
    assert sorted(one.kind for one in found.damaged) == ["actions", "actions", "objects", "objects"]


def test_no_bit_of_a_manifest_can_flip_unseen(tmp_path: Path) -> None:
    store = Store(tmp_path / "store")
    with store.staging() as folder:
        (folder / "t").write_bytes(b"x")
        digest = store.commit(folder, {"identity": 1, "class_names": ["cat", "dog"], "loss": float("nan")})
    path = store.root / "objects" / digest[:2] / digest / "manifest.json"
    whole = path.read_bytes()
    assert store.verify(digest, deep=True) == []
    unseen = []
    name = whole.index(b'"seal"')  # without its seal a manifest is as an older mcomp wrote it
    for at in [at for at in range(len(whole) - 1) if not name < at < name + 5]:
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :])
        if not store.verify(digest, deep=True):
            unseen.append((at, whole[at]))
    assert unseen == []


def test_a_changed_action_record_is_found(store: Store) -> None:
    path = store.root / "actions" / key_of("a")[:2] / f"{key_of('a')}.json"
    record = json.loads(path.read_text())
    record["record"]["stage"] = "other"
    path.write_text(json.dumps(record))
    assert [one.kind for one in store.check().damaged] == ["actions"]
    assert not path.exists()


def test_a_record_whose_object_was_deleted_by_hand_is_set_aside(store: Store) -> None:
    import shutil

    shutil.rmtree(object_folder(store, "a"))
    found = store.check()
    assert "is gone" in found.damaged[0].faults[0]
    assert store.check().ok


@pytest.mark.parametrize("name", ["snapshot.pt", "previous.pt"])
def test_a_damaged_snapshot_is_found_and_the_other_one_stays(store: Store, name: str) -> None:
    folder = store.work_dir(key_of("c"))
    flip(folder / name)
    assert store.check(quick=True).ok
    found = store.check()
    assert [(one.kind, one.name) for one in found.damaged] == [("snapshots", key_of("c"))]
    assert not (folder / name).exists()
    assert store.check().ok
    assert store.has_work(key_of("c")) is not None


def test_snapshots_that_a_process_is_writing_are_left_out(store: Store) -> None:
    flip(store.work_dir(key_of("c")) / "snapshot.pt")
    with locks.hold(store.root / "locks" / f"{key_of('c')}.lock"):
        found = store.check()
    assert found.ok
    assert found.in_use == [key_of("c")]


def test_foreign_files_in_the_store_break_nothing(store: Store) -> None:
    for place in ("objects", "objects/ab", "actions", "actions/ab", "work", "runs", "cache"):
        (store.root / place).mkdir(parents=True, exist_ok=True)
        (store.root / place / ".DS_Store").write_text("x")
        (store.root / place / "Thumbs.db").write_text("x")
    assert store.check().ok
    assert store.collect(dry_run=True).removed == []


def test_an_absent_store_is_whole(tmp_path: Path) -> None:
    assert Store(tmp_path / "absent").check().ok
    assert not (tmp_path / "absent").exists()


def test_reading_a_whole_snapshot_takes_no_lock(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Store, "lock", lambda *_args, **_named: pytest.fail("a run that will not wait would fail"))
    assert store.check().ok
