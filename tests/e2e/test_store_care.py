"""A store on a read-only or a full disk, and the two verbs that care for one."""

from __future__ import annotations

import gc
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from mcomp.cli.main import main
from mcomp.engine import Engine
from mcomp.recipe import Recipe
from mcomp.store import Store
from tests.conftest import ROOT

RECIPE = """\
version: 1
name: care
model: {name: lenet}
data: {name: digits, image_size: 16, batch_size: 64}
stages:
  - train: {epochs: 2, checkpoint_every: {steps: 4}}
  - prune: {ratio: 0.3}
"""

#: Mounts of its own, seen by nobody else and gone with it. ``mcomp`` runs inside, and says how each command ended.
INSIDE = """
import contextlib, io, json, os, shutil, subprocess, sys
from mcomp.cli.main import main
from mcomp.engine import Engine
from mcomp.recipe import Recipe
from mcomp.store import Store

def mount(*words):
    subprocess.run(["mount", *words], check=True)

def mcomp(*words):
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = main([*words])
    return {"code": code, "out": out.getvalue(), "err": err.getvalue()}

answers = {}
"""


SCRIPT = """
answers["first"] = mcomp("apply", "care.yaml", "--json")
mount("--bind", ".mcomp", ".mcomp")
mount("-o", "remount,ro,bind", ".mcomp")
for name, words in {
    "plan": ["plan", "care.yaml", "--json"],
    "hits": ["apply", "care.yaml"],
    "miss": ["apply", "care.yaml", "--set", "stages.prune.ratio=0.5"],
    "runs": ["runs", "--json"],
    "verify": ["verify", "--json"],
    "gc": ["gc"],
}.items():
    answers[name] = mcomp(*words)

answers["full"] = {}
room = shutil.disk_usage(".")
shutil.disk_usage = lambda _path: room  # the disk fills up after preflight has looked at it
for size in (8, 280, 400):
    store = f"store{size}"
    os.mkdir(store)
    mount("-t", "tmpfs", "-o", f"size={size}k", "none", store)
    full = mcomp("apply", "care.yaml", "--store", store, "--json")
    held = os.listdir(store + "/work") if os.path.isdir(store + "/work") else []
    kept = [name for key in held for name in os.listdir(f"{store}/work/{key}") if name.endswith(".pt")]
    mount("-o", "remount,size=20m", store)
    verify = mcomp("verify", "--store", store, "--json")
    again = mcomp("apply", "care.yaml", "--store", store, "--json")
    answers["full"][size] = {"full": full, "kept": kept, "verify": verify, "again": again}
print(json.dumps(answers))
"""


@pytest.fixture(scope="module")
def mounted(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """How every command of the script ended, on disks that only a process of its own sees."""
    if shutil.which("unshare") is None or subprocess.run(["unshare", "-rm", "true"], check=False).returncode != 0:
        pytest.skip("this machine gives no mount namespace")
    place = tmp_path_factory.mktemp("mounted")
    (place / "care.yaml").write_text(RECIPE)
    command = ["unshare", "-rm", sys.executable, "-W", "ignore", "-c", INSIDE + SCRIPT]
    variables = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "NO_COLOR": "1"}
    done = subprocess.run(command, cwd=place, env=variables, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    answers: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return answers


def test_a_read_only_store_is_read_and_its_refusal_to_be_written_is_explained(mounted: dict[str, Any]) -> None:
    answers = {name: answer for name, answer in mounted.items() if name != "full"}
    codes = {name: answer["code"] for name, answer in answers.items()}
    assert codes == {"first": 0, "plan": 0, "hits": 0, "miss": 4, "runs": 0, "verify": 0, "gc": 8}
    assert [stage["status"] for stage in json.loads(answers["plan"]["out"])["stages"]] == ["hit", "hit"]
    assert json.loads(answers["verify"]["out"])["corrupt"] == []
    assert "this run is not recorded" in answers["hits"]["err"]
    for name in ("miss", "gc"):
        assert ("MC281" if name == "miss" else "MC303") in answers[name]["err"], answers[name]
        assert "is read-only" in answers[name]["err"]
        assert "--store" in answers[name]["err"]


def test_a_full_disk_is_said_and_harms_nothing(mounted: dict[str, Any]) -> None:
    whole = [stage["artifact"] for stage in json.loads(mounted["first"]["out"])["stages"]]
    for size, found in mounted["full"].items():
        assert found["full"]["code"] == 8, (size, found["full"])
        assert json.loads(found["full"]["out"])["errors"][0]["code"] == "MC302", (size, found["full"])
        assert found["verify"]["code"] == 0, (size, found["verify"])
        assert found["again"]["code"] == 0, (size, found["again"])
        stages = json.loads(found["again"]["out"])["stages"]
        assert [stage["artifact"] for stage in stages] == whole
        if found["kept"]:
            assert stages[0]["status"] == "resumed", size
    assert any(found["kept"] for found in mounted["full"].values())


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "care.yaml").write_text(RECIPE)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def call(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, dict[str, Any]]:
    capsys.readouterr()
    gc.collect()  # a store that an earlier command left in a cycle would still count as in use
    code = main([*words, "--json"])
    return code, json.loads(capsys.readouterr().out)


def test_what_verify_sets_aside_the_next_apply_makes_anew(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, first = call(capsys, "apply", "care.yaml")
    assert code == 0
    assert call(capsys, "verify")[0] == 0
    digest = first["stages"][0]["artifact"]
    tensors = place / ".mcomp" / "objects" / digest[:2] / digest / "tensors.pt"
    content = bytearray(tensors.read_bytes())
    content[len(content) // 2] ^= 1
    tensors.write_bytes(content)
    assert call(capsys, "verify", "--quick")[0] == 0
    code, found = call(capsys, "verify")
    assert code == 8
    assert found["exit_code"] == 8
    assert [one["kind"] for one in found["corrupt"]] == ["objects", "actions"]
    assert call(capsys, "verify")[0] == 0
    code, again = call(capsys, "apply", "care.yaml")
    assert (code, [stage["status"] for stage in again["stages"]]) == (0, ["run", "hit"])
    assert again["stages"][0]["artifact"] == digest


def test_verify_speaks_to_people_with_a_code_and_what_to_do(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _, first = call(capsys, "apply", "care.yaml")
    digest = first["stages"][1]["artifact"]
    (place / ".mcomp" / "objects" / digest[:2] / digest / "tensors.pt").unlink()
    assert main(["verify"]) == 8
    printed = capsys.readouterr()
    assert "error[MC330]" in printed.err
    assert "`tensors.pt` is missing" in printed.err
    assert "quarantine" in printed.out


def test_gc_keeps_what_runs_lead_to_and_the_next_apply_hits(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert call(capsys, "apply", "care.yaml")[0] == 0
    assert call(capsys, "apply", "care.yaml", "--set", "stages.prune.ratio=0.5")[0] == 0
    code, dry = call(capsys, "gc", "--keep-runs", "1", "--dry-run")
    assert (code, dry["removed"]["runs"]["count"], dry["removed"]["objects"]["count"]) == (0, 1, 1)
    code, done = call(capsys, "gc", "--keep-runs", "1")
    assert (code, done["items"]) == (0, dry["items"])
    assert done["bytes_freed"] == dry["bytes_freed"] > 0
    code, again = call(capsys, "apply", "care.yaml", "--set", "stages.prune.ratio=0.5")
    assert [stage["status"] for stage in again["stages"]] == ["hit", "hit"]
    code, again = call(capsys, "apply", "care.yaml")
    assert [stage["status"] for stage in again["stages"]] == ["hit", "run"]


@pytest.mark.parametrize(
    "words",
    [["--older-than", "30"], ["--older-than", "x"], ["--max-size", "5"], ["--max-size", "5XB"], ["--keep-runs", "-1"]],
)
def test_a_wrong_age_size_or_number_is_a_usage_error(
    words: list[str], place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["gc", *words]) == 2
    assert "write" in capsys.readouterr().err


def test_gc_tells_people_what_goes_and_why(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert call(capsys, "apply", "care.yaml")[0] == 0
    gc.collect()
    assert main(["gc", "--keep-runs", "0", "--dry-run"]) == 0
    printed = capsys.readouterr().out
    assert "beyond the newest 0 runs" in printed
    assert "MB in 5 things would go" in printed


def test_an_object_damaged_on_disk_is_not_laid_at_the_stages_door(
    place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (place / "care.yaml").write_text(RECIPE.replace("{steps: 4}}", "{steps: 4}}\n    cache: false"))
    code, first = call(capsys, "apply", "care.yaml")
    assert code == 0
    digest = first["stages"][0]["artifact"]
    tensors = place / ".mcomp" / "objects" / digest[:2] / digest / "tensors.pt"
    content = bytearray(tensors.read_bytes())
    middle = len(content) // 2
    content[middle : middle + 300] = bytes(byte ^ 255 for byte in content[middle : middle + 300])
    tensors.write_bytes(content)
    code, again = call(capsys, "apply", "care.yaml")
    assert (code, [stage["status"] for stage in again["stages"]]) == (0, ["run", "hit"])
    assert again["stages"][0]["artifact"] == digest


def test_a_malformed_result_of_an_earlier_run_stops_no_verb(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert call(capsys, "apply", "care.yaml")[0] == 0
    (run,) = (place / ".mcomp" / "runs").iterdir()
    (run / "result.json").write_text('{"name": "care", "stages": [{"id": "train", "key": ["x"], "artifact": {}}]}')
    codes = {
        words: main(words.split())
        for words in ("plan care.yaml", "explain care.yaml train", "gc --dry-run", "runs", "apply care.yaml", "verify")
    }
    assert {words for words, code in codes.items() if code} == {"verify"}


def test_a_store_tells_its_owner_again_once_a_run_is_over(place: Path) -> None:
    told: list[str] = []
    store = Store(place / "store", notify=told.append)
    assert Engine(store, progress=False).apply(Recipe.load(place / "care.yaml")).ok
    store.notify("a sentence")
    assert told == ["a sentence"]
