"""The mission: the flagship recipe from nothing to a measured INT8 file, and everything promised of it."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import FLAGSHIP, ROOT, FlagshipRun, run_mcomp

STAGES = ["train", "sparse_train", "prune", "finetune", "quantize", "bn_fuse", "trt_int8"]


def test_every_stage_runs_in_the_recipe_s_order(flagship: FlagshipRun) -> None:
    assert flagship.result["status"] == "ok"
    assert [stage["id"] for stage in flagship.result["stages"]] == STAGES
    assert {stage["status"] for stage in flagship.result["stages"]} == {"run"}


def test_the_deployed_file_keeps_its_accuracy(flagship: FlagshipRun) -> None:
    deployed = flagship.metrics("trt_int8")
    assert deployed["top1_backend"] == "onnxruntime"
    assert deployed["top1"] >= 97.0
    assert flagship.metrics("train")["top1"] - deployed["top1"] <= 1.0
    assert deployed["agreement"] >= 99.5


def test_what_is_pruned_and_quantised_is_smaller_on_disk(flagship: FlagshipRun) -> None:
    assert flagship.metrics("prune")["params"] <= 0.7 * flagship.metrics("train")["params"]
    original = 4 * flagship.metrics("train")["params"]  # a fp32 ONNX file holds at least these bytes
    deployed = flagship.metrics("trt_int8")
    assert deployed["bytes"] <= 0.25 * original
    sizes = {Path(path).stat().st_size for path in flagship.files("trt_int8").values()}
    assert deployed["bytes"] in sizes


def test_an_engine_that_was_not_built_is_said_to_be_not_built(flagship: FlagshipRun) -> None:
    notes = " ".join(flagship.result["stages"][-1]["notes"])
    assert "engine not built" in notes or "engine built" in notes


def test_the_same_command_again_is_all_hits_without_torch(flagship: FlagshipRun) -> None:
    script = (
        "import sys\nfrom mcomp.cli.main import main\n"
        f"code = main(['apply', {str(FLAGSHIP)!r}, '--store', {str(flagship.store)!r}, '--json'])\n"
        "assert not {'torch', 'onnx', 'onnxruntime'} & set(sys.modules)\nsys.exit(code)"
    )
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert {stage["status"] for stage in json.loads(done.stdout)["stages"]} == {"hit"}


def test_a_changed_ratio_runs_prune_and_what_follows(flagship: FlagshipRun) -> None:
    done = run_mcomp("plan", str(FLAGSHIP), "--store", str(flagship.store), "--set", "vars.ratio=0.5", "--json")
    stages = {stage["id"]: stage for stage in json.loads(done.stdout)["stages"]}
    assert [stages[name]["status"] for name in STAGES] == ["hit", "hit", *["run"] * 5]
    assert stages["prune"]["reason"] == "option `ratio` 0.4 -> 0.5"


@pytest.mark.parametrize("stage", ["prune", "quantize", "bn_fuse"])
def test_a_stage_s_model_loads_in_a_fresh_process_with_the_same_bits(
    stage: str, flagship: FlagshipRun, tmp_path: Path
) -> None:
    digest = next(one["artifact"] for one in flagship.result["stages"] if one["id"] == stage)
    folder = flagship.store / "objects" / digest[:2] / digest
    script = (
        "import sys, torch, mcomp\n"
        "torch.set_num_threads(1)\n"
        "model = mcomp.load_model(sys.argv[1])\n"
        "x = torch.randn(4, 3, 16, 16, generator=torch.Generator().manual_seed(7))\n"
        "torch.save(model(x).detach(), sys.argv[2])"
    )
    outputs = []
    for name in ("a.pt", "b.pt"):
        target = tmp_path / name
        subprocess.run([sys.executable, "-W", "ignore", "-c", script, folder, target], cwd=ROOT, check=True)
        import torch

        outputs.append(torch.load(target, weights_only=True))
    assert torch.equal(*outputs)


def test_a_damaged_artifact_is_run_again(flagship: FlagshipRun, tmp_path: Path) -> None:
    store = tmp_path / "store"
    shutil.copytree(flagship.store, store)
    digest = flagship.result["stages"][-1]["artifact"]
    victim = next((store / "objects" / digest[:2] / digest / "files").iterdir())
    victim.write_bytes(victim.read_bytes()[:100])
    done = run_mcomp("plan", str(FLAGSHIP), "--store", str(store), "--json")
    stages = json.loads(done.stdout)["stages"]
    assert [stage["status"] for stage in stages] == [*["hit"] * 6, "run"]
    assert "damaged" in stages[-1]["reason"]


def test_the_screen_is_a_table_with_every_column(flagship: FlagshipRun) -> None:
    done = run_mcomp("report", "--store", str(flagship.store))
    for column in ("stage", "top-1 %", "params", "MACs", "bytes", "latency", "status"):
        assert column in done.stdout
    for stage in STAGES:
        assert stage in done.stdout


def test_export_hands_over_the_file_and_a_loadable_model(flagship: FlagshipRun, tmp_path: Path) -> None:
    import mcomp

    out = tmp_path / "out"
    done = run_mcomp("export", str(out), "--to", "torchscript", "--to", "pt2", "--store", str(flagship.store))
    assert done.returncode == 0, done.stderr
    assert list(out.glob("*.onnx"))
    assert mcomp.load_model(out) is not None
    assert "`torchscript`: " in done.stdout
    assert (out / "torchscript.model.pt").is_file()
    assert (out / "pt2.model.pt2").is_file()


@pytest.mark.parametrize(
    ("words", "said"),
    [(["--to", "torchscrip"], "did you mean `torchscript`?"), (["--to", "pt2=4"], "stores no weights in 4 bits")],
)
def test_an_export_to_what_there_is_not_leaves_nothing_behind(
    words: list[str], said: str, flagship: FlagshipRun, tmp_path: Path
) -> None:
    done = run_mcomp("export", str(tmp_path / "out"), *words, "--store", str(flagship.store))
    assert done.returncode == 2
    assert said in done.stderr
    assert not list(tmp_path.iterdir())


def test_bench_times_the_models_and_files_of_a_run_against_its_float_file(flagship: FlagshipRun) -> None:
    done = run_mcomp("bench", "--store", str(flagship.store), "--rounds", "2", "--batch", "2", "--json")
    assert done.returncode == 0, done.stderr
    rows = json.loads(done.stdout)["tables"][0]["rows"]
    assert rows[0]["name"].endswith("model.fp32.onnx")
    assert rows[0]["engine"] == "onnxruntime"
    assert {"float: train", "simulated: trt_int8"} <= {row["name"] for row in rows}
    deployed = {Path(name).name for name in flagship.files("trt_int8") if name.endswith(".onnx")}
    assert {f"trt_int8: {name}" for name in deployed} <= {row["name"] for row in rows}


def test_a_recipe_may_start_from_an_artifact_and_knows_what_was_done_to_it(
    flagship: FlagshipRun, tmp_path: Path
) -> None:
    digest = next(one["artifact"] for one in flagship.result["stages"] if one["id"] == "bn_fuse")
    weights = flagship.store / "objects" / digest[:2] / digest
    recipe = tmp_path / "again.yaml"
    recipe.write_text(
        "version: 1\nname: again\nmodel: {name: nin_gc, width: 0.5, weights: " + str(weights) + "}\n"
        "data: {name: digits, image_size: 16}\nstages: [evaluate, onnx_int8]\n"
    )
    done = run_mcomp("apply", str(recipe), "--store", str(tmp_path / "store"), "--json")
    assert done.returncode == 0, done.stderr
    metrics = json.loads(done.stdout)["stages"][0]["metrics"]
    assert metrics["top1"] == flagship.metrics("bn_fuse")["top1"]
    wrong = run_mcomp("validate", str(recipe), "--set", "stages=[{train: {epochs: 1}}]")
    assert wrong.returncode == 3
    assert "needs a model whose weights are floating-point" in wrong.stderr
