"""The events of one run, as the engine sends them, and the folder that goes with it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from mcomp.engine.events import Event

LOCK = """\
# resolved from r.yaml
version: 1
name: "small"
seed: 0
model: {name: "lenet", width: 0.5}
data: {name: "digits", batch_size: 64}
stages:
  - train: {epochs: 2, lr: 0.1, milestones: [1]}
    id: "train"
  - prune: {ratio: 0.3}
    id: "prune"
    gates: [{"metric": "top1", "min": 99}]
  - finetune: {epochs: 1, lr: 0.01}
    id: "finetune"
"""


def run_events(
    root: Path, status: str = "ok", run: str = "20260101T000000000Z-small-abcd0123", sweep: dict[str, Any] | None = None
) -> list[Event]:
    """Write what the store holds of a run under ``root``; give its events, one a second from 1000 on."""
    folder = root / "runs" / run
    folder.mkdir(parents=True)
    (folder / "recipe.lock.yaml").write_text(LOCK)
    gate = {
        "metric": "top1",
        "rule": "min",
        "limit": 99.0,
        "value": 95.0,
        "passed": status == "ok",
        "vs": None,
        "unit": "",
    }
    outcomes = [
        _outcome("train", "train", {"top1": 97.0, "loss": 0.2, "params": 1000, "latency_backend": "torch"}),
        _outcome("prune", "prune", {"top1": 95.0, "params": 600}) | {"gates": [gate], "notes": ["# kept 60 %"]},
        _outcome("finetune", "finetune", {"top1": 96.5, "params": 600}),
    ]
    result = {
        "run": run,
        "name": "small",
        "status": status,
        "exit_code": 0 if status == "ok" else 6,
        "seconds": 12.0,
        "stages": outcomes,
    }
    (folder / "result.json").write_text(json.dumps(result))
    about = {"folder": str(folder), "sweep": sweep or {}}
    epoch = {"loss": 0.5, "top1": 80.0, "val_top1": 82.0, "lr": 0.1}
    events: list[Event] = [
        {"event": "run_started", "stage": None, "run": run, "name": "small", "plan": [], **about},
        {"event": "stage_started", "stage": "train", "uses": "train"},
        {"event": "step", "stage": "train", "epoch": 1, "epochs": 2, "step": 3, "steps": 9, "loss": 0.7},
        {"event": "epoch", "stage": "train", "epoch": 1, "epochs": 2, **epoch},
        {"event": "log", "stage": "train", "text": "hello"},
        {"event": "epoch", "stage": "train", "epoch": 2, "epochs": 2, **epoch | {"loss": 0.25}},
        {"event": "stage_finished", "stage": "train", "outcome": outcomes[0]},
        {"event": "stage_started", "stage": "prune", "uses": "prune"},
        {"event": "stage_finished", "stage": "prune", "outcome": outcomes[1]},
        {"event": "stage_started", "stage": "finetune", "uses": "finetune"},
        {"event": "epoch", "stage": "finetune", "epoch": 1, "epochs": 1, **epoch | {"loss": float("nan")}},
        {"event": "stage_finished", "stage": "finetune", "outcome": outcomes[2]},
        {"event": "run_finished", "stage": None, "result": result, "folder": str(folder), "error": None},
    ]
    return [{"time": 1000.0 + second, **event} for second, event in enumerate(events)]


def _outcome(name: str, uses: str, metrics: dict[str, Any]) -> dict[str, Any]:
    return {
        "id": name,
        "uses": uses,
        "status": "run",
        "seconds": 1.0,
        "metrics": metrics,
        "files": {},
        "gates": [],
        "notes": [],
    }
