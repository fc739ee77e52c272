from __future__ import annotations

import errno
import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from mcomp.errors import StoreError
from mcomp.store import Store, staging
from tests.unit.store.stores import outcome, result

KEY = "ab" * 32


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store")


def put(store: Store, content: str = "hello", **manifest: Any) -> str:
    with store.staging() as folder:
        (folder / "files").mkdir()
        (folder / "files" / "a.txt").write_text(content)
        return store.commit(folder, {"identity": {"tensors": "x"}, **manifest})


def everything(root: Path) -> list[str]:
    return sorted(path.relative_to(root).as_posix() for path in root.rglob("*") if path.is_file())


def test_asking_an_absent_store_finds_nothing_and_makes_nothing(store: Store) -> None:
    assert store.action(KEY) is None
    assert store.object(KEY) is None
    assert store.manifest(KEY) is None
    assert store.verify(KEY)
    assert store.has_work(KEY) is None
    assert store.runs() == []
    store.clear_work(KEY)
    assert not store.root.exists()


def test_the_first_write_marks_the_folder_and_hides_it_from_git(store: Store) -> None:
    store.put_action(KEY, {})
    assert (store.root / "version").read_text() == "1\n"
    assert (store.root / ".gitignore").read_text() == "*\n"


def test_a_store_of_another_format_is_refused_also_for_reading(store: Store) -> None:
    store.put_action(KEY, {})
    (store.root / "version").write_text("2\n")
    with pytest.raises(StoreError, match="has format '2', this mcomp reads 1") as caught:
        Store(store.root).action(KEY)
    assert caught.value.code == "MC304"


def test_a_folder_with_a_persons_files_is_never_made_a_store(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("x")
    with pytest.raises(StoreError, match=r"is not a store: it holds 1 other files, e.g. `thesis.tex`"):
        Store(tmp_path).put_action(KEY, {})
    assert everything(tmp_path) == ["thesis.tex"]


def test_a_file_in_the_place_of_the_store_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(StoreError, match="is a file"):
        Store(tmp_path / "file").put_action(KEY, {})


def test_a_half_made_store_is_finished_by_the_next_write(store: Store) -> None:
    store.root.mkdir()
    (store.root / ".version.1234.tmp").write_text("")  # what a kill during the first write leaves
    store.put_action(KEY, {"a": 1})
    assert store.action(KEY) == {"a": 1}


def test_an_action_comes_back_as_it_was_put(store: Store) -> None:
    store.put_action(KEY, {"metrics": {"top1": 98.5, "loss": float("nan")}, "files": ()})
    assert store.action(KEY) == {"metrics": {"top1": 98.5, "loss": "nan"}, "files": []}


@pytest.mark.parametrize(
    "damage",
    [
        lambda text: text[: len(text) // 2],
        lambda text: text.replace("98.5", "99.5"),
        lambda text: "[]",
        lambda text: json.dumps({**json.loads(text), "key": "other"}),
    ],
    ids=["truncated", "edited", "other JSON", "of another key"],
)
def test_a_damaged_action_is_set_aside_aloud_and_counts_as_absent(tmp_path: Path, damage: Any) -> None:
    said: list[str] = []
    store = Store(tmp_path / "store", notify=said.append)
    store.put_action(KEY, {"top1": 98.5})
    path = store.root / "actions" / "ab" / f"{KEY}.json"
    path.write_text(damage(path.read_text()))
    assert store.action(KEY) is None
    assert not path.exists()
    assert len(said) == 1
    assert "moved to" in said[0]
    assert len(list((store.root / "quarantine").glob(f"*/{KEY}.json"))) == 1
    store.put_action(KEY, {"top1": 97.0})
    assert store.action(KEY) == {"top1": 97.0}


UNWRITTEN = ["NaN", "1e999", '"\\ud800"']  # what Python's json reads and no store writes


@pytest.mark.parametrize("value", UNWRITTEN)
def test_a_value_that_no_store_writes_makes_a_record_damaged(store: Store, value: str) -> None:
    store.put_action(KEY, {"top1": 98.5})
    path = store.root / "actions" / "ab" / f"{KEY}.json"
    path.write_text(path.read_text().replace("98.5", value))
    assert store.action_fault(path) == "it is not a complete record"
    assert store.action(KEY) is None
    assert not path.exists()


def test_a_damaged_action_in_a_store_that_cannot_be_written_still_counts_as_absent(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.put_action(KEY, {})
    (store.root / "actions" / "ab" / f"{KEY}.json").write_text("{")
    said: list[str] = []
    store.notify = said.append

    def refuse(*_args: Any) -> None:
        raise OSError(errno.EROFS, "read-only")

    monkeypatch.setattr(os, "replace", refuse)
    assert store.action(KEY) is None
    assert "could not be moved" in said[0]


def test_an_object_is_found_by_its_digest_with_every_file_accounted_for(store: Store) -> None:
    digest = put(store, metrics={"top1": 1.0})
    folder = store.object(digest)
    manifest = store.manifest(digest)
    assert folder is not None
    assert manifest is not None
    assert (folder / "files" / "a.txt").read_text() == "hello"
    assert manifest["files"]["files/a.txt"]["bytes"] == 5
    assert manifest["metrics"] == {"top1": 1.0}
    assert manifest["digest"] == digest
    assert store.verify(digest, deep=True) == []
    assert list((store.root / "tmp").iterdir()) == []


def test_the_digest_is_over_the_identity_and_the_hashed_files_only(store: Store) -> None:
    digest = put(store)
    assert put(store, content="other", metrics={"seconds": 3}) == digest
    assert put(store, hashed_files=["files/a.txt"]) != digest
    assert put(store, "other", hashed_files=["files/a.txt"]) != put(store, "one", hashed_files=["files/a.txt"])


def test_the_same_object_made_again_leaves_the_first_in_place(store: Store) -> None:
    digest = put(store, note="first")
    assert put(store, note="second") == digest
    assert store.manifest(digest)["note"] == "first"  # type: ignore[index]


def test_a_manifest_already_in_the_folder_is_kept_beneath_the_given_one(store: Store) -> None:
    with store.staging() as folder:
        (folder / "manifest.json").write_text(json.dumps({"identity": {"a": 1}, "builder": "nin"}))
        digest = store.commit(folder, {"metrics": {}})
    manifest = store.manifest(digest)
    assert manifest is not None
    assert manifest["builder"] == "nin"
    assert "manifest.json" not in manifest["files"]


def test_an_object_that_lost_a_file_or_a_byte_is_no_object(store: Store) -> None:
    digest = put(store)
    folder = store.object(digest)
    assert folder is not None
    (folder / "files" / "a.txt").write_text("hellO")
    assert store.verify(digest) == []
    assert store.verify(digest, deep=True) == ["`files/a.txt` has other content than was written"]
    (folder / "files" / "a.txt").write_text("hell")
    assert store.verify(digest) == ["`files/a.txt` has 4 bytes instead of 5"]
    (folder / "files" / "a.txt").unlink()
    assert store.verify(digest) == ["`files/a.txt` is missing"]
    assert store.object(digest) is None
    (folder / "manifest.json").unlink()
    assert "no readable manifest.json" in store.verify(digest)[0]


def test_an_edited_manifest_is_found_when_looking_deep(store: Store) -> None:
    digest = put(store)
    path = store.root / "objects" / digest[:2] / digest / "manifest.json"
    path.write_text(path.read_text().replace('"tensors":"x"', '"tensors":"y"'))
    assert store.verify(digest, deep=True) == ["its manifest.json describes another object"]


@pytest.mark.parametrize("value", UNWRITTEN)
@pytest.mark.parametrize("where", ['"x"', "98.5"], ids=["in the identity", "beside it"])
def test_a_value_that_no_store_writes_makes_a_manifest_damaged(store: Store, where: str, value: str) -> None:
    digest = put(store, metrics={"top1": 98.5})
    path = store.root / "objects" / digest[:2] / digest / "manifest.json"
    path.write_text(path.read_text().replace(where, value))
    assert store.verify(digest, deep=True) == ["its manifest.json has other content than was written"]
    assert put(store) == digest
    assert store.verify(digest, deep=True) == []


@pytest.mark.parametrize("files", ["3", "[1]", '{"a": 1}', '{"\\ud800": {}}', '{"\\udc80": {}}', "NaN"])
@pytest.mark.parametrize("deep", [False, True])
def test_whatever_a_manifest_says_of_its_files_it_is_set_aside(store: Store, files: str, deep: bool) -> None:
    digest = put(store, hashed_files=["files/a.txt"])
    folder = store.root / "objects" / digest[:2] / digest
    table = json.dumps(json.loads((folder / "manifest.json").read_text())["files"], separators=(",", ":"))
    (folder / "manifest.json").write_text((folder / "manifest.json").read_text().replace(table, files))
    (damage,) = store.check(quick=not deep).damaged
    assert damage.name == digest
    assert all(fault.isprintable() for fault in damage.faults)
    assert not folder.exists()


def test_a_manifest_that_lost_its_files_is_damaged(store: Store) -> None:
    digest = put(store, hashed_files=["files/a.txt"])
    path = store.root / "objects" / digest[:2] / digest / "manifest.json"
    path.write_text(path.read_text().replace('"files":', '"filer":'))
    assert store.verify(digest, deep=True) == ["its manifest.json has other content than was written"]


def test_a_damaged_object_is_replaced_when_it_is_made_again(store: Store) -> None:
    digest = put(store)
    (store.root / "objects" / digest[:2] / digest / "files" / "a.txt").unlink()
    assert put(store) == digest
    assert store.verify(digest, deep=True) == []
    assert len(list((store.root / "quarantine").iterdir())) == 1


def test_a_quarantined_object_is_gone_but_kept_with_the_reason(store: Store) -> None:
    digest = put(store)
    store.quarantine(digest, "its logits differ")
    assert store.object(digest) is None
    assert "its logits differ" in next((store.root / "quarantine").glob("*/why.txt")).read_text()


def test_a_failure_while_staging_leaves_nothing(store: Store) -> None:
    def fail() -> None:
        with store.staging() as folder:
            (folder / "half").write_text("x")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert list((store.root / "tmp").iterdir()) == []
    assert not (store.root / "objects").exists()


@pytest.mark.parametrize("step", ["rename", "fsync", "replace"])
def test_a_crash_while_committing_leaves_no_half_object(
    store: Store, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    store.put_action(KEY, {})

    def refuse(*_args: Any) -> None:
        raise OSError(errno.ENOSPC, "no space left on device")

    with store.staging() as folder:
        (folder / "a").write_text("x")
        with monkeypatch.context() as patch:
            patch.setattr(os, step, refuse)
            with pytest.raises(StoreError, match="no room left"):
                store.commit(folder, {"identity": {}})
    assert list(store.root.glob("objects/*/*")) == []
    assert list((store.root / "tmp").iterdir()) == []


KILLED = """
import os, signal, sys
from pathlib import Path
from mcomp.store import Store
with Store(Path(sys.argv[1])).staging() as folder:
    (folder / "half").write_text("x")
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_what_a_killed_process_was_staging_is_swept_away_but_never_what_is_in_use(store: Store) -> None:
    with store.staging() as used:
        killed = subprocess.run([sys.executable, "-c", KILLED, str(store.root)], check=False)
        assert killed.returncode == -9
        assert len(list((store.root / "tmp").iterdir())) == 2
        for path in (store.root / "tmp").iterdir():
            os.utime(path, (time.time() - 3600, time.time() - 3600))
        with store.staging():
            assert used.is_dir()
            assert len(list((store.root / "tmp").iterdir())) == 2


def test_another_process_that_was_faster_wins(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    real = staging.move

    def slower(folder: Path, target: Path) -> None:
        shutil.copytree(folder, target)
        (target / "first").write_text("x")
        real(folder, target)

    monkeypatch.setattr(staging, "move", slower)
    digest = put(store)
    assert (store.root / "objects" / digest[:2] / digest / "first").exists()


def test_work_lives_until_it_is_cleared(store: Store) -> None:
    from mcomp.store.snapshot import save_snapshot

    assert store.has_work(KEY) is None
    save_snapshot(store.work_dir(KEY), {"epoch": 2}, {"epoch": 2, "epochs": 5})
    found = store.has_work(KEY)
    assert found is not None
    assert (found["epoch"], found["epochs"]) == (2, 5)
    store.clear_work(KEY)
    assert store.has_work(KEY) is None


@pytest.mark.parametrize("name", ["../../etc/passwd", "", "a/b", ".hidden", "x" * 200])
def test_a_key_that_could_leave_the_store_is_refused(store: Store, name: str) -> None:
    with pytest.raises(ValueError, match="is no key"):
        store.put_action(name, {})


def test_runs_have_unique_ids_and_are_listed_newest_first(store: Store) -> None:
    runs = [store.new_run("nin gc/α", KEY[:8]) for _ in range(3)]
    whole = result("r", [outcome("train", KEY, None)])
    runs[0].write_json("result.json", whole)
    runs[1].write_text("result.json", "{")
    listed = store.runs()
    assert [record.id for record in listed] == [run.id for run in reversed(runs)]
    assert [record.result for record in listed] == [None, None, whole]
    assert runs[0].id.endswith(f"-nin_gc_-{KEY[:8]}")


def test_two_locks_of_one_key_exclude_each_other(store: Store) -> None:
    with store.lock(KEY), pytest.raises(StoreError) as caught, store.lock(KEY, wait=False):
        pytest.fail("the lock was given twice")
    assert caught.value.code == "MC301"


def test_the_store_needs_no_torch() -> None:
    code = "import sys, mcomp.store; sys.exit('torch' in sys.modules or 'numpy' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


LAYOUT = """
import sys
from pathlib import Path
from mcomp.store import Store
Store(Path(sys.argv[1])).put_action("ab" * 30 + sys.argv[2], {"n": sys.argv[2]})
"""


def test_processes_may_lay_out_one_store_together(store: Store) -> None:
    workers = [subprocess.Popen([sys.executable, "-c", LAYOUT, str(store.root), f"k{n}"]) for n in range(3)]
    assert [worker.wait() for worker in workers] == [0, 0, 0]
    assert [store.action("ab" * 30 + f"k{n}") for n in range(3)] == [{"n": f"k{n}"} for n in range(3)]


def test_an_object_damaged_on_disk_is_replaced_when_it_is_made_again(store: Store) -> None:
    digests = []
    for _ in range(2):
        with store.staging() as folder:
            (folder / "tensors.pt").write_bytes(b"x" * 1000)
            digests.append(store.commit(folder, {"identity": "same"}))
        path = store.root / "objects" / digests[-1][:2] / digests[-1] / "tensors.pt"
        if len(digests) == 1:
            path.write_bytes(b"y" * 1000)
    assert digests[0] == digests[1]
    assert path.read_bytes() == b"x" * 1000
    assert list((store.root / "quarantine").glob("*/why.txt"))


WHOLE = result("r", [outcome("train", KEY, None)])
MALFORMED = {
    "no stages": {**WHOLE, "stages": None},
    "stages that are numbers": {**WHOLE, "stages": [1, 2]},
    "only a name": {"name": "r"},
    "a list": [1, 2],
    "a key that leaves the store": {**WHOLE, "stages": [outcome("train", "../../x", None)]},
    "a key that is a list": {**WHOLE, "stages": [{**outcome("train", None, None), "key": ["x"]}]},
    "an artifact that is a mapping": {**WHOLE, "stages": [{**outcome("train", None, None), "artifact": {}}]},
    "metrics in a list": {**WHOLE, "stages": [{**outcome("train", None, None), "metrics": [1]}]},
}


@pytest.mark.parametrize("what", MALFORMED)
def test_a_malformed_result_counts_as_none_and_verify_sets_it_aside(store: Store, what: str) -> None:
    run = store.new_run("r", KEY[:8])
    run.write_json("result.json", WHOLE)
    assert store.check().ok
    run.write_json("result.json", MALFORMED[what])
    assert [record.result for record in store.runs()] == [None]
    assert store.collect(dry_run=True).removed == []
    (damage,) = store.check().damaged
    assert (damage.kind, damage.name) == ("runs", run.id)
    assert store.check().ok
    assert [record.id for record in store.runs()] == [run.id]
