"""A plan's figures are those that ``apply`` reports later, its refusals those of what could not succeed."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from mcomp import Engine, Recipe
from mcomp.cli.main import main
from mcomp.engine.disk import RESERVE_BYTES
from mcomp.engine.forecast_costs import Outlook, outlook, span
from mcomp.engine.forecasting import shapes
from mcomp.engine.probe import probe
from mcomp.engine.shelf import Shelf
from mcomp.engine.workbench import Workbench
from mcomp.errors import BackendMissingError

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


def test_a_finished_stage_of_another_model_does_not_tell_what_this_one_takes(engine: Engine, tmp_path: Path) -> None:
    stages = "  - evaluate\n"
    small = Recipe.from_text((HEAD + stages).replace("0.125", "0.0625"))
    assert engine.apply(small).ok
    key = engine.plan(small)["evaluate"].key or ""
    engine.store.put_action(key, {**(engine.store.action(key) or {}), "seconds": 1000.0})

    def seconds(recipe: Recipe) -> tuple[float, float]:
        return span(costed(engine, recipe, timed=True).plan["evaluate"].seconds) or (0, 1e9)

    again = small.with_set("seed=3")
    assert seconds(again)[0] < 1000 < seconds(again)[1]
    for other in (Recipe.load(recipe_file(tmp_path, stages)), again.with_set("data.samples=240")):
        assert seconds(other)[1] < 100


def test_the_last_run_tells_nothing_of_another_model_or_other_options(engine: Engine, tmp_path: Path) -> None:
    recipe = Recipe.load(recipe_file(tmp_path))
    assert engine.apply(recipe).ok
    for change in ("model.width=0.0625", "data.image_size=16", "stages.train.lr=0.01"):
        assert outlook(engine.plan(recipe.with_set(change)), engine.store).needed_bytes is None
    changed = outlook(engine.plan(recipe.with_set("stages.prune.ratio=0.3")), engine.store)
    assert changed.costs["train"].disk_bytes == 0
    assert changed.costs["prune"].disk_bytes is changed.costs["bn_fuse"].disk_bytes is None


def test_a_diverging_training_is_said_in_its_line(engine: Engine, tmp_path: Path) -> None:
    stages = "  - train: {epochs: 1, lr: 1.0e+30}\n  - evaluate\n"
    found = costed(engine, Recipe.load(recipe_file(tmp_path, stages)), timed=True)
    assert "would fail: " in found.plan["train"].reason
    assert found.plan["train"].seconds is found.costs["train"].cpu_seconds is None
    assert found.plan["evaluate"].seconds is not None
    assert found.as_dict()["seconds"] is None


@pytest.mark.parametrize("exists", [True, False])
def test_a_probe_writes_only_to_the_disk_of_the_store(
    exists: bool, engine: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = Recipe.load(recipe_file(tmp_path, "  - train: {epochs: 1}\n"))
    if exists:
        assert engine.apply(recipe.with_set("seed=5")).ok
    before = sorted(path for path in tmp_path.rglob("*") if "cache" not in path.parts)
    written: list[Path] = []
    for name in ("save_artifact", "save_snapshot"):
        monkeypatch.setattr(f"mcomp.engine.probe.{name}", _noting(name, written))
    costed(engine, recipe, timed=True)
    assert len(written) == 2
    above = engine.store.root / "tmp" if exists else tmp_path
    assert {path.parent for path in written} == {above}
    engine.store.close()
    assert before == sorted(path for path in tmp_path.rglob("*") if "cache" not in path.parts)


def test_a_probe_that_is_ended_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = recipe_file(tmp_path, "  - train: {epochs: 1}\n")
    monkeypatch.setattr("mcomp.engine.probe.save_snapshot", lambda *_words: signal.raise_signal(signal.SIGTERM))
    assert main(["plan", str(path), "--store", str(tmp_path / "store"), "--probe"]) == 128 + signal.SIGTERM
    assert [found.name for found in tmp_path.iterdir()] == [path.name]
    assert "interrupted" in capsys.readouterr().err


def _noting(name: str, written: list[Path]) -> Any:
    from mcomp.engine import probe as module

    original = getattr(module, name)

    def noting(*words: Any) -> Any:
        written.append(next(word for word in words if isinstance(word, Path)))
        return original(*words)

    return noting


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
    monkeypatch.setattr("mcomp.engine.disk.os.access", lambda _path, _mode: False)
    assert "MC281" in refusal(["plan", str(recipe_file(tmp_path)), "--store", str(tmp_path / "store")], capsys)


def test_a_missing_runtime_that_may_not_be_missing_is_refused(tmp_path: Path, capsys: Any) -> None:
    stages = STAGES + "  - trt_int8: {on_missing: fail}\n"
    words = ["plan", str(recipe_file(tmp_path, stages)), "--store", str(tmp_path / "store")]
    assert "MC282" in refusal(words, capsys)


@pytest.mark.parametrize("where", ["on the engine itself", "on a stage before it"])
def test_a_runtime_that_a_condition_may_spare_may_be_missing(where: str, engine: Engine, tmp_path: Path) -> None:
    when = "    when: {stage: train, metric: top1, min: 50}\n"
    last = "  - trt_int8: {on_missing: fail}\n"
    stopping = "  - evaluate:\n" + when + "    otherwise: stop\n"
    spared = last + when if where == "on the engine itself" else stopping + last
    outlook(engine.plan(Recipe.load(recipe_file(tmp_path, STAGES + spared))), engine.store).refuse_impossible()
    skipped = STAGES + "  - evaluate:\n" + when + last
    with pytest.raises(BackendMissingError):
        outlook(engine.plan(Recipe.load(recipe_file(tmp_path, skipped))), engine.store).refuse_impossible()


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


def test_the_points_of_a_sweep_need_their_disk_together(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = recipe_file(tmp_path, STAGES + 'sweep: {product: {"stages.train.epochs": [1, 2, 3, 4, 5, 6]}}\n')
    words = ["plan", str(path), "--store", str(tmp_path / "store"), "--json", "--shapes"]
    assert main(words) == 0
    runs = json.loads(capsys.readouterr().out)["runs"]
    most = max(run["disk"]["needed_bytes"] for run in runs)
    monkeypatch.setattr(shutil, "disk_usage", lambda _path: SimpleNamespace(free=RESERVE_BYTES + 2 * most))
    assert main(words) == 4
    assert "MC280" in capsys.readouterr().out


def test_a_bare_plan_loads_neither_torch_nor_a_runtime(tmp_path: Path) -> None:
    code = (
        "import sys\nfrom mcomp.cli.main import main\n"
        f"assert main(['plan', {str(recipe_file(tmp_path))!r}, '--store', {str(tmp_path / 'store')!r}]) == 0\n"
        "assert not {'torch', 'onnx', 'onnxruntime', 'openvino'} & set(sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
