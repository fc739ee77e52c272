"""TensorBoard reads back what the tracker wrote."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from mcomp.errors import PreflightError
from mcomp.report.trackers import trackers
from tests.unit.report.run_events import LOCK, run_events

accumulators = pytest.importorskip(
    "tensorboard.backend.event_processing.event_accumulator", reason="tensorboard is not installed"
)


def read_back(folder: Path) -> Any:
    found = accumulators.EventAccumulator(str(folder), size_guidance={"tensors": 0, "scalars": 0})
    found.Reload()
    return found


def texts(found: Any, tag: str) -> str:
    return str(found.Tensors(tag)[0].tensor_proto.string_val[0].decode())


def test_a_run_reads_back_with_its_epochs_figures_gates_and_recipe(tmp_path: Path) -> None:
    events = run_events(tmp_path, status="gate_failed")
    with trackers(["tensorboard"], tmp_path) as listeners:
        for event in events:
            listeners[0](event)
    found = read_back(tmp_path / "tensorboard" / events[0]["run"])
    assert [(point.step, point.value) for point in found.Scalars("train/epoch_loss")] == [(1, 0.5), (2, 0.25)]
    assert [(point.step, point.wall_time) for point in found.Scalars("finetune/epoch_lr")] == [(3, 1010.0)]
    assert [(point.step, point.value) for point in found.Scalars("prune/params")] == [(2, 600.0)]
    assert [point.value for point in found.Scalars("along_the_recipe/top1")] == [97.0, 95.0, 96.5]
    assert texts(found, "recipe").replace("    ", "").split() == LOCK.split()
    assert "gate FAILED: top1 min: 95 (limit 99)" in texts(found, "prune/outcome")
    assert "gate_failed" in texts(found, "status")


def test_the_runs_of_a_sweep_carry_its_values_as_hyperparameters(tmp_path: Path) -> None:
    target = tmp_path / "elsewhere"
    with trackers([f"tensorboard={target}"], tmp_path / "store") as listeners:
        for number, ratio in enumerate((0.3, 0.5)):
            for event in run_events(tmp_path / "store", run=f"r{number}", sweep={"vars.ratio": ratio}):
                listeners[0](event)
    from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData

    seen = []
    for number in range(2):
        found = read_back(target / f"r{number}")
        content = found.SummaryMetadata("_hparams_/session_start_info").plugin_data.content
        seen.append(HParamsPluginData.FromString(content).session_start_info.hparams["vars.ratio"].number_value)
        assert "_hparams_/session_end_info" in found.Tags()["tensors"]
    assert seen == [0.3, 0.5]


def test_a_folder_that_cannot_be_made_is_refused_before_anything_runs(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with (
        pytest.raises(PreflightError, match="cannot be opened") as caught,
        trackers([f"tensorboard={tmp_path / 'file'}/x"], tmp_path / "store"),
    ):
        pass
    assert caught.value.code == "MC615"


def test_writing_needs_no_torch(tmp_path: Path) -> None:
    code = (
        "import sys, pathlib\nfrom mcomp.report.trackers import trackers\n"
        "from tests.unit.report.run_events import run_events\n"
        "root = pathlib.Path(sys.argv[1])\n"
        "with trackers(['tensorboard'], root) as (one,):\n    [one(event) for event in run_events(root)]\n"
        "print('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"
