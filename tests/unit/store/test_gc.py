from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from mcomp.errors import StoreError
from mcomp.store import Store, garbage, locks
from mcomp.store.garbage import Collection, Policy
from tests.unit.store.stores import DAY, age, key_of, put_run, put_stage, settle


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store")


def removed(found: Collection) -> dict[str, int]:
    return {kind: one["count"] for kind, one in found.as_dict()["removed"].items() if one["count"]}


def kept(store: Store, *names: str) -> list[str]:
    """Which of these stages a later run would find."""
    fresh = Store(store.root)
    records = {name: fresh.action(key_of(name)) for name in names}
    fresh.close()
    return [name for name, record in records.items() if record is not None and not fresh.verify(record["artifact"])]


def test_what_a_run_refers_to_stays_and_the_rest_goes(store: Store) -> None:
    put_run(store, "a", "b")
    put_stage(store, "stray")
    settle(store)
    found = store.collect()
    assert removed(found) == {"actions": 1, "objects": 1}
    assert kept(store, "a", "b", "stray") == ["a", "b"]
    assert found.bytes_freed > 1000
    assert found.bytes_before - found.bytes_freed == store.collect(dry_run=True).bytes_before


def test_a_run_that_was_killed_refers_by_its_events(store: Store) -> None:
    put_run(store, "a", "b", finished=False)
    settle(store)
    assert removed(store.collect()) == {}
    assert kept(store, "a", "b") == ["a", "b"]


def test_a_dry_run_says_the_same_and_removes_nothing(store: Store) -> None:
    put_run(store, "a", days_ago=40)
    put_run(store, "b")
    settle(store)
    told = store.collect(Policy(older_than=30 * DAY), dry_run=True)
    assert kept(store, "a", "b") == ["a", "b"]
    settle(store)
    done = store.collect(Policy(older_than=30 * DAY))
    assert {**told.as_dict(), "dry_run": False} == done.as_dict()
    assert kept(store, "a", "b") == ["b"]


def test_an_object_that_a_younger_run_shares_outlives_the_older_run(store: Store) -> None:
    put_run(store, "shared", "old", days_ago=40)
    put_run(store, "shared", "new")
    settle(store)
    assert removed(store.collect(Policy(older_than=30 * DAY))) == {"runs": 1, "actions": 1, "objects": 1}
    assert kept(store, "shared", "old", "new") == ["shared", "new"]


@pytest.mark.parametrize(
    ("policy", "left"),
    [
        (Policy(keep_runs=2), ["c", "d"]),
        (Policy(keep_runs=0), []),
        (Policy(older_than=15 * DAY), ["c", "d"]),
        (Policy(older_than=15 * DAY, keep_runs=3), ["b", "c", "d"]),
        (Policy(older_than=25 * DAY, keep_runs=1), ["b", "c", "d"]),
    ],
)
def test_runs_go_by_age_and_by_number(store: Store, policy: Policy, left: list[str]) -> None:
    for days, name in ((30, "a"), (20, "b"), (10, "c"), (1, "d")):
        put_run(store, name, days_ago=days)
    settle(store)
    store.collect(policy)
    assert kept(store, "a", "b", "c", "d") == left


def test_the_oldest_go_until_the_store_is_small_enough_and_no_more_than_that(store: Store) -> None:
    for days in range(8, 0, -1):
        put_run(store, f"stage{days}", days_ago=days)
    settle(store)
    size = store.collect(dry_run=True).bytes_before
    limit = size * 5 // 9
    found = store.collect(Policy(max_bytes=limit))
    after = store.collect(dry_run=True).bytes_before
    assert limit - size // 8 < after <= limit
    assert kept(store, *(f"stage{days}" for days in range(8, 0, -1))) == ["stage4", "stage3", "stage2", "stage1"]
    assert found.notes == []


def test_the_newest_run_stays_whatever_the_size_and_that_is_said(store: Store) -> None:
    put_run(store, "a", days_ago=2)
    put_run(store, "b", days_ago=1)
    settle(store)
    found = store.collect(Policy(max_bytes=1))
    assert kept(store, "a", "b") == ["b"]
    assert "newest run" in found.notes[0]


def test_caches_and_quarantined_things_go_before_runs(store: Store) -> None:
    put_run(store, "a", days_ago=2)
    put_run(store, "b", days_ago=1)
    for folder in ("cache/decoded", "quarantine/q-1"):
        (store.root / folder).mkdir(parents=True)
        (store.root / folder / "file").write_bytes(b"x" * 5000)
    settle(store)
    size = store.collect(dry_run=True).bytes_before
    assert removed(store.collect(Policy(max_bytes=size - 6000))) == {"cache": 1, "quarantine": 1}
    assert kept(store, "a", "b") == ["a", "b"]


def test_forgotten_snapshots_caches_and_quarantined_things_go_by_themselves(store: Store) -> None:
    put_run(store, "a")
    for days, name in ((40, "old"), (20, "young")):
        for folder in (store.work_dir(key_of(name)), store.root / "quarantine" / name, store.root / "cache" / name):
            folder.mkdir(parents=True, exist_ok=True)
            (folder / "file").write_text("x")
            age(store.root, days, only=folder)
    settle(store)
    assert removed(store.collect(dry_run=True)) == {"snapshots": 1, "cache": 1, "quarantine": 1}
    assert removed(store.collect(Policy(older_than=10 * DAY))) == {"snapshots": 2, "cache": 2, "quarantine": 2}
    assert not list((store.root / "work").iterdir())


def test_snapshots_of_a_stage_that_runs_stay(store: Store) -> None:
    folder = store.work_dir(key_of("a"))
    (folder / "snapshot.pt").write_text("x")
    age(store.root, 40, only=folder)
    settle(store)
    with locks.hold(store.root / "locks" / f"{key_of('a')}.lock"):
        assert removed(store.collect()) == {}
    assert removed(store.collect()) == {"snapshots": 1}


def test_snapshots_of_a_finished_stage_go_unless_it_runs_again(store: Store) -> None:
    put_run(store, "a")
    folder = store.work_dir(key_of("a"))
    (folder / "snapshot.pt").write_text("x")
    settle(store, days=1)  # the record is older than the snapshot: `cache: false` runs the stage again
    age(store.root, 0.5, only=folder)
    assert removed(store.collect()) == {}
    age(store.root, 2, only=folder)
    assert removed(store.collect()) == {"snapshots": 1}
    assert kept(store, "a") == ["a"]


def test_what_killed_processes_left_goes_once_it_is_old(store: Store) -> None:
    put_run(store, "a")
    (store.root / "tmp" / "abc").mkdir(parents=True)
    (store.root / "tmp" / "abc" / "tensors.pt").write_bytes(b"x" * 100)
    (store.root / "actions" / "ab").mkdir(exist_ok=True)
    left = [store.root / ".version.123.tmp", store.root / "actions" / "ab" / ".k.json.456.tmp"]
    for path in left:
        path.write_text("half")
    settle(store, days=0)
    assert removed(store.collect()) == {}
    age(store.root, 1, only=store.root / "tmp" / "abc")
    for path in left:
        os.utime(path, (time.time() - DAY, time.time() - DAY))
    assert removed(store.collect()) == {"leftovers": 3}
    assert not any(path.exists() for path in left)
    assert kept(store, "a") == ["a"]


def test_a_record_without_its_object_goes(store: Store) -> None:
    put_run(store, "a")
    _, digest = put_stage(store, "a")
    settle(store)
    store.quarantine(digest, "test")
    assert removed(store.collect()) == {"actions": 1}


# beside other processes

USER = """
import sys
from mcomp.store import Store
store = Store(sys.argv[1])
for key in sys.argv[2:]:
    assert store.action(key) is not None
print("using", flush=True)
sys.stdin.readline()
"""


def start_user(store: Store, *names: str) -> subprocess.Popen[str]:
    process = subprocess.Popen(
        [sys.executable, "-c", USER, str(store.root), *map(key_of, names)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "using\n"
    return process


@pytest.mark.parametrize("end", [signal.SIGTERM, signal.SIGKILL])
def test_what_a_living_process_has_looked_at_stays_until_it_ends(store: Store, end: int) -> None:
    put_run(store, "a", days_ago=3)
    put_run(store, "b", days_ago=2)
    settle(store)
    with start_user(store, "a") as user:
        found = store.collect(Policy(keep_runs=0))
        assert found.processes == [user.pid]
        assert {item.name for item in found.in_use} >= {key_of("a")}
        assert kept(store, "a", "b") == ["a"]
        user.send_signal(end)
    settle(store)
    found = store.collect(Policy(keep_runs=0))
    assert found.processes == []
    assert kept(store, "a") == []


def test_a_use_that_comes_between_look_and_removal_is_respected(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    put_stage(store, "a")
    put_stage(store, "b")
    settle(store)
    real = garbage._choose
    late = Store(store.root)

    def choose(*arguments: Any) -> Any:
        chosen = real(*arguments)
        assert late.action(key_of("a")) is not None
        return chosen

    monkeypatch.setattr(garbage, "_choose", choose)
    assert removed(store.collect()) == {"actions": 1, "objects": 1}
    assert late.object(late.action(key_of("a"))["artifact"]) is not None  # type: ignore[index]
    assert kept(store, "a", "b") == ["a"]


def test_a_use_that_comes_after_the_removal_finds_nothing(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    put_stage(store, "a")
    settle(store)
    late, real = Store(store.root), os.utime

    def utime(path: Any, *rest: Any, **named: Any) -> None:
        monkeypatch.undo()
        store.collect()  # just before the use is noted
        real(path, *rest, **named)

    (store.root / "locks" / "gc.lock").unlink(missing_ok=True)
    late._mark_use()
    late.close()  # as if its mark came too late
    late._release = lambda: None
    monkeypatch.setattr(os, "utime", utime)
    assert late.action(key_of("a")) is None


def test_an_object_made_again_while_it_is_collected_is_there_afterwards(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    key, digest = put_stage(store, "a")
    settle(store)
    real = garbage._take_away

    def take_away(item: Any, aside: Path) -> bool:
        if item.kind == "objects":
            put_stage(Store(store.root), "a")
        return real(item, aside)

    monkeypatch.setattr(garbage, "_take_away", take_away)
    store.collect()
    assert Store(store.root).action(key) is not None
    assert store.object(digest) is not None


def test_two_collections_at_once_are_refused(store: Store) -> None:
    put_run(store, "a")
    with (
        locks.hold(store.root / "locks" / "gc.lock"),
        pytest.raises(StoreError) as caught,
    ):
        store.collect()
    assert caught.value.code == "MC331"
    assert str(os.getpid()) in caught.value.why


def test_a_folder_without_a_store_is_left_alone(tmp_path: Path) -> None:
    found = Store(tmp_path / "absent").collect()
    assert found.bytes_before == 0
    assert not (tmp_path / "absent").exists()


def test_lock_files_of_killed_processes_go(store: Store) -> None:
    put_run(store, "a")
    (store.root / "locks" / "abc.lock").write_text("1\n")
    settle(store)
    store.collect()
    assert list((store.root / "locks").iterdir()) == []


@pytest.mark.parametrize("ended", [False, True])
def test_a_run_that_begins_while_the_store_is_looked_at_stays(
    store: Store, monkeypatch: pytest.MonkeyPatch, ended: bool
) -> None:
    put_run(store, "a", days_ago=3)
    settle(store)
    late, real = Store(store.root), garbage.take

    def take(root: Path) -> Any:
        late.new_run("r", "k").write_json("result.json", {})
        put_stage(late, "b")
        assert late.action(key_of("a")) is not None
        if ended:
            late.close()
        return real(root)

    monkeypatch.setattr(garbage, "take", take)
    found = store.collect(Policy(keep_runs=0))
    assert removed(found) == {"runs": 1}  # the old one
    assert kept(store, "a", "b") == ["a", "b"]
    assert len(store.runs()) == 1


def test_who_will_not_wait_is_not_sent_away_by_the_care_of_the_store(store: Store) -> None:
    lock = store.root / "locks" / f"{key_of('a')}.lock"
    put_run(store, "a")
    caring = threading.Thread(target=hold_for_an_instant, args=(lock, held := threading.Event()))
    caring.start()
    held.wait()
    with store.lock(key_of("a"), wait=False):
        caring.join()


def hold_for_an_instant(path: Path, held: threading.Event) -> None:
    with locks.hold(path):
        held.set()
