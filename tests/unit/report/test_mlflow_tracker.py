"""MLflow reads back what the tracker wrote to a local file store."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from mcomp.errors import PreflightError
from mcomp.report.trackers import trackers
from tests.unit.report.run_events import LOCK, run_events

# set before the import: MLflow's own news of itself is none of a test's business
os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
pytest.importorskip("mlflow.tracking", reason="mlflow is not installed")


def logged(root: Path, monkeypatch: pytest.MonkeyPatch, name: str = "small") -> list[Any]:
    from mlflow.tracking import MlflowClient

    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    client = MlflowClient(tracking_uri=root.as_uri())
    experiment = client.get_experiment_by_name(name)
    assert experiment is not None
    return [client, *client.search_runs([experiment.experiment_id], order_by=["attributes.run_name"])]


@pytest.fixture(autouse=True)
def no_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.delenv("MLFLOW_ALLOW_FILE_STORE", raising=False)


def test_a_run_reads_back_with_its_epochs_figures_gates_and_recipe(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    events = run_events(tmp_path)
    with trackers(["mlflow"], tmp_path) as listeners:
        for event in events:
            listeners[0](event)
    assert "MLFLOW_ALLOW_FILE_STORE" not in os.environ
    client, run = logged(tmp_path / "mlruns", monkeypatch)
    assert (run.info.status, run.info.run_name) == ("FINISHED", events[0]["run"])
    history = client.get_metric_history(run.info.run_id, "train/epoch_loss")
    assert [(point.step, point.value) for point in history] == [(1, 0.5), (2, 0.25)]
    assert run.data.metrics["finetune/top1"] == 96.5
    assert run.data.params["stages.prune.ratio"] == "0.3"
    assert run.data.tags["prune.gate_1"] == "held: top1 min: 95 (limit 99)"
    assert run.data.tags["train.latency_backend"] == "torch"
    artifacts = Path(run.info.artifact_uri.removeprefix("file://"))
    assert (artifacts / "recipe.lock.yaml").read_text() == LOCK
    assert json.loads((artifacts / "result.json").read_text())["status"] == "ok"


@pytest.mark.parametrize(
    ("status", "ended"), [("gate_failed", "FAILED"), ("failed", "FAILED"), ("interrupted", "KILLED")]
)
def test_how_a_run_ended_is_its_status(
    status: str, ended: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with trackers([f"mlflow={tmp_path / 'm'}"], tmp_path) as listeners:
        for event in run_events(tmp_path, status=status):
            listeners[0](event)
    _, run = logged(tmp_path / "m", monkeypatch)
    assert run.info.status == ended
    assert run.data.tags["mcomp.status"] == status


def test_a_run_that_falls_silent_was_killed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with trackers([f"mlflow={tmp_path / 'm'}"], tmp_path) as listeners:
        for event in run_events(tmp_path)[:4]:
            listeners[0](event)
    assert logged(tmp_path / "m", monkeypatch)[1].info.status == "KILLED"


def test_a_sweep_is_one_run_each_in_one_experiment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with trackers([f"mlflow={tmp_path / 'm'}"], tmp_path) as listeners:
        for name, ratio in (("a", 0.3), ("b", 0.5)):
            for event in run_events(tmp_path, run=name, sweep={"vars.ratio": ratio}):
                listeners[0](event)
    _, *runs = logged(tmp_path / "m", monkeypatch)
    assert [run.data.tags["mcomp.sweep.vars.ratio"] for run in runs] == ["0.3", "0.5"]


@pytest.mark.parametrize("target", ["nosuch://x", "sqlite:////no/such/folder/x.db"])
def test_a_place_that_cannot_be_opened_is_refused_before_anything_runs(target: str, tmp_path: Path) -> None:
    with pytest.raises(PreflightError, match="cannot be opened") as caught, trackers([f"mlflow={target}"], tmp_path):
        pass
    assert caught.value.code == "MC615"
    assert caught.value.why
