"""A real run of one epoch, seen through real trackers."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from mcomp.engine import Engine
from mcomp.recipe import Recipe
from mcomp.report.trackers import trackers

os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
accumulators = pytest.importorskip(
    "tensorboard.backend.event_processing.event_accumulator", reason="tensorboard is not installed"
)
pytest.importorskip("mlflow.tracking", reason="mlflow is not installed")

RECIPE = """\
version: 1
name: tracked
model: {name: lenet, width: 0.5}
data: {name: digits}
stages:
  - train: {epochs: 1}
    gates: [{metric: top1, min: 1}]
"""


def test_a_run_and_its_cached_repetition_are_tracked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    recipe, store = Recipe.from_text(RECIPE), tmp_path / "store"
    with trackers(["tensorboard", "mlflow"], store) as listeners:
        engine = Engine(store, listeners=listeners)
        first, again = engine.apply(recipe), engine.apply(recipe)
    top1 = first["train"].metrics["top1"]
    for result, epochs in ((first, 1), (again, 0)):
        found = accumulators.EventAccumulator(str(store / "tensorboard" / result.run))
        found.Reload()
        assert [point.value for point in found.Scalars("train/top1")] == pytest.approx([top1])
        assert len([tag for tag in found.Tags()["scalars"] if tag == "train/epoch_loss"]) == epochs

    from mlflow.tracking import MlflowClient

    client = MlflowClient(tracking_uri=(store / "mlruns").as_uri())
    experiment = client.get_experiment_by_name("tracked")
    assert experiment is not None
    runs = {run.info.run_name: run for run in client.search_runs([experiment.experiment_id])}
    assert {run.info.status for run in runs.values()} == {"FINISHED"}
    assert {runs[result.run].data.tags["train.status"] for result in (first, again)} == {"run", "hit"}
    assert runs[first.run].data.params["stages.train.epochs"] == "1"
    assert "train/epoch_val_top1" in runs[first.run].data.metrics
