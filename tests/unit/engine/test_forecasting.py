"""A plan's figures are those that ``apply`` reports later, its refusals those of what could not succeed."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from mcomp import Engine, Recipe
from mcomp.cli.main import main
from mcomp.engine.forecast_costs import Outlook, outlook, span
from mcomp.engine.forecasting import shapes
from mcomp.engine.probe import probe
from mcomp.engine.shelf import Shelf
from mcomp.engine.workbench import Workbench

HEAD = """\
version: 1
name: tiny
device: cpu
model: {name: nin, width: 0.125}
data: {name: synthetic, samples: 120, image_size: 12, num_classes: 3, batch_size: 16}
stages:
"""
STAGES = """\
  - train: {epochs: 1}
  - prune: {ratio: 0.4}
  - quantize: {epochs: 0, calibration_samples: 16}
  - bn_fuse
"""


@pytest.fixture
def engine(tmp_path: Path) -> Engine:
    return Engine(tmp_path / "store")


def costed(engine: Engine, recipe: Recipe, *, timed: bool = False) -> Outlook:
    plan = engine.plan(recipe)
    bench = Workbench(recipe, engine.store, engine.keys(recipe), Shelf())
    found, forecasts = shapes(outlook(plan, engine.store), bench)
    return probe(found, bench, forecasts) if timed else found


def recipe_file(tmp_path: Path, stages: str = STAGES) -> Path:
    path = tmp_path / "tiny.yaml"
    path.write_text(HEAD + stages)
    return path


def test_the_outcome_lies_in_what_was_planned_and_is_exact_once_training_is_cached(
    engine: Engine, tmp_path: Path
) -> None:
    recipe = Recipe.load(recipe_file(tmp_path))
    before = costed(engine, recipe)
    result = engine.apply(Recipe.from_text(HEAD + "  - train: {epochs: 1}\n"))
    assert result.ok
    between = costed(engine, recipe)
    made = engine.apply(recipe)
    assert made.ok
    after = costed(engine, recipe)
    for figure in ("params", "macs"):
        for line in before.plan.stages:
            low, high = span(getattr(line, figure)) or (1.0, 0.0)
            assert low <= made[line.stage.id].metrics[figure] <= high  # type: ignore[operator]
        for later in (between, after):
            planned = [getattr(line, figure) for line in later.plan.stages]
            assert planned == [stage.metrics[figure] for stage in made.stages]
    assert isinstance(before.plan["train"].params, int)
    assert before.costs["bn_fuse"].shape == (3,)
    assert [line.status for line in between.plan.stages] == ["hit", "run", "run", "run"]


def test_a_probe_gives_every_stage_time_and_memory(engine: Engine, tmp_path: Path) -> None:
    found = costed(engine, Recipe.load(recipe_file(tmp_path)), timed=True).as_dict()
    for stage in found["stages"]:
        for figure in ("seconds", "cpu_seconds", "memory_bytes"):
            low, high = stage[figure]
            assert 0 < low < high
    low, high = found["cpu_seconds"]
    assert low > sum(stage["cpu_seconds"][0] for stage in found["stages"])  # the start counts too
    assert found["memory_bytes"][1] == max(stage["memory_bytes"][1] for stage in found["stages"])
    assert 0 < found["disk"]["needed_bytes"] < found["disk"]["free_bytes"]
    assert not (tmp_path / "store").exists()
    json.dumps(found)


def test_disk_needed_holds_what_the_run_writes(engine: Engine, tmp_path: Path) -> None:
    recipe = Recipe.load(recipe_file(tmp_path))
    needed = costed(engine, recipe).needed_bytes
    assert needed is not None
    assert engine.apply(recipe).ok
    written = sum(file.stat().st_size for file in engine.store.root.rglob("*") if file.is_file())
    assert written <= needed


def test_without_torch_an_earlier_run_tells_what_is_written(engine: Engine, tmp_path: Path) -> None:
    recipe = Recipe.load(recipe_file(tmp_path))
    assert outlook(engine.plan(recipe), engine.store).needed_bytes is None
    assert engine.apply(recipe).ok
    changed = outlook(engine.plan(recipe.with_set("seed=1")), engine.store)
    assert changed.needed_bytes is not None
    assert changed.needed_bytes > 10_000


def test_a_stage_that_says_nothing_makes_the_rest_unknown(engine: Engine, tmp_path: Path) -> None:
    plugin = tmp_path / "quiet.py"
    plugin.write_text(
        "from mcomp.stages import Stage, StageResult, register\n\n\n@register\nclass QuietForecast(Stage):\n"
        '    """Say nothing."""\n\n    name = "quiet_forecast"\n\n    def run(self, ctx, options):\n'
        "        return StageResult(ctx.model)\n"
    )
    stages = f"  - train: {{epochs: 1}}\n  - quiet_forecast\n  - bn_fuse\nplugins: [{plugin}]\n"
    recipe = Recipe.load(recipe_file(tmp_path, stages), trust=True)
    found = costed(engine, recipe, timed=True)
    assert isinstance(found.plan["train"].params, int)
    assert found.plan["quiet_forecast"].params is found.plan["bn_fuse"].macs is None
    assert found.needed_bytes is None
    assert found.as_dict()["cpu_seconds"] is None


def test_a_stage_of_which_nobody_knows_whether_it_runs_has_both_outcomes(engine: Engine, tmp_path: Path) -> None:
    stages = "  - train: {epochs: 1}\n  - prune: {ratio: 0.4}\n    when: {stage: train, metric: top1, min: 50}\n"
    recipe = Recipe.load(recipe_file(tmp_path, stages + "  - bn_fuse\n"))
    found = costed(engine, recipe)
    pruned, whole = found.plan["prune"].params, found.plan["train"].params
    assert isinstance(pruned, tuple)
    assert isinstance(whole, int)
    assert pruned[0] < pruned[1] == whole
    made = engine.apply(recipe)
    low, high = span(found.plan["bn_fuse"].params) or (1, 0)
    assert low <= made["bn_fuse"].metrics["params"] <= high  # type: ignore[operator]


def refusal(words: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    assert main(words) == 4
    return capsys.readouterr().err


def test_a_full_disk_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    words = ["plan", str(recipe_file(tmp_path)), "--store", str(tmp_path / "store")]
    assert main(words) == 0
    monkeypatch.setattr(shutil, "disk_usage", lambda _path: SimpleNamespace(free=1_000_000))
    assert "MC280" in refusal(words, capsys)


def test_a_store_that_cannot_be_written_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    from mcomp.engine import disk

    monkeypatch.setattr(disk.os, "access", lambda _path, _mode: False)
    assert "MC281" in refusal(["plan", str(recipe_file(tmp_path)), "--store", str(tmp_path / "store")], capsys)


def test_a_missing_runtime_that_may_not_be_missing_is_refused(tmp_path: Path, capsys: Any) -> None:
    stages = STAGES + "  - trt_int8: {on_missing: fail}\n"
    words = ["plan", str(recipe_file(tmp_path, stages)), "--store", str(tmp_path / "store")]
    assert "MC282" in refusal(words, capsys)


def test_the_command_prints_ranges_and_totals(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["plan", str(recipe_file(tmp_path)), "--store", str(tmp_path / "store"), "--shapes"]
    assert main(words) == 0
    text = capsys.readouterr().out
    assert "…" in text
    assert "disk" in text
    assert main([*words, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert isinstance(found["stages"][0]["params"], int)
    assert isinstance(found["stages"][1]["params"], list)
    assert set(found) >= {"stages", "disk", "backends", "seconds", "memory_bytes"}


def test_a_sweep_is_planned_point_by_point(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = recipe_file(tmp_path, STAGES + 'sweep: {product: {"stages.prune.ratio": [0.2, 0.6]}}\n')
    assert main(["plan", str(path), "--store", str(tmp_path / "store"), "--json", "--shapes"]) == 0
    runs = json.loads(capsys.readouterr().out)["runs"]
    assert [run["sweep"]["stages.prune.ratio"] for run in runs] == [0.2, 0.6]
    assert runs[1]["stages"][0]["disk_bytes"] == 0  # the first run will have made it
    assert runs[0]["stages"][1]["params"][1] > runs[1]["stages"][1]["params"][1]


def test_a_bare_plan_loads_neither_torch_nor_a_runtime(tmp_path: Path) -> None:
    code = (
        "import sys\nfrom mcomp.cli.main import main\n"
        f"assert main(['plan', {str(recipe_file(tmp_path))!r}, '--store', {str(tmp_path / 'store')!r}]) == 0\n"
        "assert not {'torch', 'onnx', 'onnxruntime', 'openvino'} & set(sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
