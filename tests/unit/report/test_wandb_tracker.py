"""Weights & Biases writes a whole run to disk without an account."""

from __future__ import annotations

from pathlib import Path

import pytest

from mcomp.errors import PreflightError
from mcomp.report.trackers import trackers
from tests.unit.report.run_events import run_events

wandb = pytest.importorskip("wandb", reason="wandb is not installed; `dev` leaves it out for its size")


def records(log: bytes) -> bytes:
    """What a run's log holds: LevelDB's log format, in which a text may be cut at the end of a block of 32 KiB."""
    found, at = b"", 7  # behind the file's own head
    while at + 7 <= len(log):
        left = 32768 - at % 32768
        if left < 7:
            at += left
            continue
        length = int.from_bytes(log[at + 4 : at + 6], "little")
        found += log[at + 7 : at + 7 + length]
        at += 7 + length
    return found


def test_an_offline_run_is_written_to_the_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.delenv("WANDB_DIR", raising=False)
    with trackers(["wandb=cellar"], tmp_path) as listeners:
        for event in run_events(tmp_path, sweep={"vars.ratio": 0.3}):
            listeners[0](event)
    wandb.teardown()  # its process writes the log, and may be behind
    (log,) = (tmp_path / "wandb").glob("offline-run-*/*.wandb")
    content = records(log.read_bytes())
    for wanted in (b"cellar", b"train/epoch_loss", b"finetune/top1", b"stages.prune.ratio", b"gate_1"):
        assert wanted in content, wanted
    assert {path.name for path in (log.parent / "files").iterdir()} >= {"result.json", "recipe.lock.yaml"}


def test_without_an_account_it_is_refused_before_anything_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("WANDB_MODE", "WANDB_API_KEY"):
        monkeypatch.delenv(name, raising=False)

    def no_account() -> None:
        raise wandb.errors.UsageError("No API key configured.")

    monkeypatch.setattr(wandb, "login", no_account)
    with pytest.raises(PreflightError, match="wandb login") as caught, trackers(["wandb"], tmp_path):
        pass
    assert caught.value.code == "MC615"
