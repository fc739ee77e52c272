from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from mcomp.errors import InterruptedRun, StoreError
from mcomp.store import locks

HOLDER = """
import sys
from pathlib import Path
from mcomp.store import locks
with locks.hold(Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.readline()
print("free", flush=True)
"""


@pytest.fixture
def holder(tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(tmp_path / "key.lock")],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    yield process
    process.kill()
    process.communicate()


def test_a_lock_held_elsewhere_is_refused_with_the_holders_process_id(
    tmp_path: Path, holder: subprocess.Popen[str]
) -> None:
    with (
        pytest.raises(StoreError, match=f"process {holder.pid}") as caught,
        locks.hold(tmp_path / "key.lock", wait=False),
    ):
        pytest.fail("the lock was given twice")
    assert caught.value.code == "MC301"
    assert caught.value.exit_code == 8


def test_waiting_ends_with_the_timeout(tmp_path: Path, holder: subprocess.Popen[str]) -> None:
    with pytest.raises(StoreError, match=r"after 0\.1 s of waiting"), locks.hold(tmp_path / "key.lock", timeout=0.1):
        pytest.fail("the lock was given twice")


def test_a_waiter_is_told_once_and_goes_on_when_the_holder_lets_go(
    tmp_path: Path, holder: subprocess.Popen[str]
) -> None:
    told: list[int] = []

    def let_go(pid: int) -> None:
        told.append(pid)
        assert holder.stdin is not None
        holder.stdin.write("\n")
        holder.stdin.flush()

    with locks.hold(tmp_path / "key.lock", on_wait=let_go, timeout=30):
        assert told == [holder.pid]
    assert not (tmp_path / "key.lock").exists()


def test_kill_9_releases_the_lock(tmp_path: Path, holder: subprocess.Popen[str]) -> None:
    os.kill(holder.pid, signal.SIGKILL)
    holder.wait()
    with locks.hold(tmp_path / "key.lock", timeout=10):
        assert int((tmp_path / "key.lock").read_text()) == os.getpid()


def test_a_signal_ends_the_waiting(tmp_path: Path, holder: subprocess.Popen[str]) -> None:
    with pytest.raises(InterruptedRun) as caught, locks.hold(tmp_path / "key.lock", should_stop=lambda: 15):
        pytest.fail("the lock was given twice")
    assert caught.value.exit_status == 143


def test_a_lock_is_free_again_after_an_error_inside(tmp_path: Path) -> None:
    path = tmp_path / "key.lock"
    with pytest.raises(ZeroDivisionError), locks.hold(path):
        raise ZeroDivisionError
    with locks.hold(path, wait=False):
        assert path.exists()


COUNTER = """
import sys
from pathlib import Path
from mcomp.store import locks
folder = Path(sys.argv[1])
for _ in range(40):
    with locks.hold(folder / "key.lock"):
        value = int((folder / "n").read_text())
        (folder / "n").write_text(str(value + 1))
"""


def test_processes_that_contend_never_hold_the_lock_together(tmp_path: Path) -> None:
    (tmp_path / "n").write_text("0")
    workers = [subprocess.Popen([sys.executable, "-c", COUNTER, str(tmp_path)]) for _ in range(3)]
    assert [worker.wait() for worker in workers] == [0, 0, 0]
    assert (tmp_path / "n").read_text() == "120"
