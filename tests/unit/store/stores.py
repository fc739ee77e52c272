"""Small stores to collect and verify: objects, action records and runs made by hand."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

from mcomp.store import Store
from mcomp.store.digest import sha256_json

DAY = 86400.0


def key_of(name: str) -> str:
    return sha256_json({"key": name})


def put_stage(store: Store, name: str, size: int = 1000) -> tuple[str, str]:
    """An action and its object of about ``size`` bytes; returns key and digest."""
    with store.staging() as folder:
        (folder / "tensors.pt").write_bytes(name.encode() * (size // len(name)))
        digest = store.commit(folder, {"identity": {"name": name}})
    store.put_action(key_of(name), {"artifact": digest, "stage": name})
    return key_of(name), digest


def put_run(store: Store, *names: str, days_ago: float = 0.0, finished: bool = True) -> Path:
    """A run that used the stages with these names."""
    stages = [put_stage(store, name) for name in names]
    path = (
        store.root
        / "runs"
        / f"{time.strftime('%Y%m%dT%H%M%S', time.gmtime(time.time() - days_ago * DAY))}000Z-r-{names[0]}"
    )
    path.mkdir(parents=True)
    outcomes = [outcome(name, key, digest) for name, (key, digest) in zip(names, stages, strict=True)]
    if finished:
        store_json(path / "result.json", result("r", outcomes))
    else:
        lines = [{"event": "stage_finished", "outcome": outcome} for outcome in outcomes]
        (path / "events.jsonl").write_text("".join(f"{text(line)}\n" for line in lines) + '{"event": "ep')
    age(store.root, days_ago, only=path)
    return path


def outcome(name: str, key: str | None, artifact: str | None, uses: str = "") -> dict[str, Any]:
    """A stage as a run's result has it."""
    return {
        "id": name, "uses": uses or name, "from": None, "status": "run", "key": key, "artifact": artifact,
        "seconds": 1.0, "metrics": {}, "files": {}, "gates": [], "notes": [],
    }  # fmt: skip


def result(name: str, stages: list[dict[str, Any]], **more: Any) -> dict[str, Any]:
    """A run's result with these stages."""
    return {"run": "r", "name": name, "status": "ok", "exit_code": 0, "seconds": 1.0, "stages": stages, **more}


def store_json(path: Path, value: Any) -> None:
    path.write_text(text(value))


def text(value: Any) -> str:
    import json

    return json.dumps(value)


def age(root: Path, days: float, only: Path | None = None) -> None:
    """Make everything look as if it was last used so many days ago."""
    when = time.time() - days * DAY
    for path in [*(only or root).rglob("*"), *([only] if only else [])]:
        os.utime(path, (when, when))


def settle(store: Store, days: float = 1.0) -> None:
    """No process uses the store, and nothing in it is fresh; runs keep their age."""
    store.close()
    for room in ("actions", "objects"):
        age(store.root / room, days)
