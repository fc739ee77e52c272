"""Nothing false is cached, nothing damaged is used, and a message drives no terminal."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from mcomp.cli.main import main

PLUGIN = """\
from torch import nn

from mcomp.stages import Stage, StageResult, Traits, register


@register
class Swap(Stage):
    \"\"\"Change the structure and tell nobody.\"\"\"

    name, version = "swap", 1
    traits = Traits()

    def run(self, ctx, options):
        ctx.model.relu1 = nn.SiLU()
        return StageResult(model=ctx.model)


@register
class Loud(Stage):
    \"\"\"Print, and end the process.\"\"\"

    name, version = "loud", 1
    traits = Traits()

    def run(self, ctx, options):
        print("hello")
        raise SystemExit(3)


@register
class Odd(Stage):
    \"\"\"Report a figure that is no number.\"\"\"

    name, version = "odd", 1
    traits = Traits(metrics={"figure"})

    def run(self, ctx, options):
        return StageResult(model=ctx.model, metrics={"figure": float("nan")})
"""

NET = """\
import torch
from torch import nn


def build(num_classes):
    body = [nn.Conv2d(3, 8, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()]
    return nn.Sequential(*body, nn.Linear(8, num_classes))
"""

HEAD = "version: 1\nname: g\nplugins: [./odd_stages.py]\nmodel: {name: lenet}\ndata: {name: digits}\n"


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "odd_stages.py").write_text(PLUGIN)
    (tmp_path / "net.py").write_text(NET)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def apply(text: str, capsys: pytest.CaptureFixture[str]) -> tuple[int, dict[str, Any]]:
    Path("g.yaml").write_text(text)
    capsys.readouterr()
    code = main(["apply", "g.yaml", "--trust", "--json"])
    return code, json.loads(capsys.readouterr().out)


def statuses(result: dict[str, Any]) -> list[str]:
    return [stage["status"] for stage in result["stages"]]


def test_a_model_that_cannot_be_rebuilt_is_never_cached(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for _ in range(2):
        code, result = apply(f"{HEAD}stages: [swap]\n", capsys)
        assert (code, statuses(result)) == (5, ["failed"])
        assert "mcomp.surgery.record" in result["errors"][0]["hint"]


def test_a_silent_change_is_found_though_the_store_knows_the_tensors(
    place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    train = "{train: {epochs: 1}}"
    assert apply(f"{HEAD}stages: [{train}, evaluate]\n", capsys)[0] == 0
    code, result = apply(f"{HEAD}stages: [{train}, swap, evaluate]\n", capsys)
    assert (code, statuses(result)) == (5, ["hit", "failed", "skipped"])
    assert apply(f"{HEAD}stages: [{train}, evaluate]\n", capsys)[0] == 0  # and the store is as good as before


def test_a_stage_that_prints_and_exits_breaks_neither_json_nor_exit_codes(
    place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, result = apply(f"{HEAD}stages: [loud]\n", capsys)
    assert (code, result["status"]) == (5, "failed")


def test_the_same_tensors_under_other_code_are_another_model(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    recipe = HEAD.replace("lenet", '"net.py:build"') + "stages: [evaluate]\n"
    _, before = apply(recipe, capsys)
    (place / "net.py").write_text(NET.replace("ReLU", "SiLU"))
    code, after = apply(recipe, capsys)
    assert (code, statuses(after)) == (0, ["run"])
    assert after["stages"][0]["artifact"] != before["stages"][0]["artifact"]
    assert after["stages"][0]["metrics"]["loss"] != before["stages"][0]["metrics"]["loss"]


def test_a_flipped_bit_is_found_set_aside_and_made_good(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _, first = apply(f"{HEAD}stages: [{{train: {{epochs: 1}}}}, {{prune: {{ratio: 0.3, importance: l1}}}}]\n", capsys)
    digest = first["stages"][0]["artifact"]
    tensors = Path(".mcomp/objects") / digest[:2] / digest / "tensors.pt"
    tensors.chmod(0o644)
    content = bytearray(tensors.read_bytes())
    for index in range(len(content) // 2, len(content) // 2 + 300):  # wider than the padding between two tensors
        content[index] ^= 1
    tensors.write_bytes(content)
    code, again = apply(
        f"{HEAD}stages: [{{train: {{epochs: 1}}}}, {{prune: {{ratio: 0.4, importance: l1}}}}]\n", capsys
    )
    assert (code, statuses(again)) == (0, ["run", "run"])
    assert again["stages"][0]["artifact"] == digest


def test_a_gate_on_what_is_no_number_fails_on_a_run_and_on_a_hit(
    place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = f"{HEAD}stages: [{{odd: {{}}, gates: [{{metric: figure, max: 1}}]}}]\n"
    for status in ("run", "hit"):
        code, result = apply(recipe, capsys)
        assert (code, statuses(result)) == (6, [status])


def test_bytes_are_the_size_of_the_tensors_on_disk(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _, result = apply(f"{HEAD}stages: [evaluate]\n", capsys)
    digest = result["stages"][0]["artifact"]
    tensors = Path(".mcomp/objects") / digest[:2] / digest / "tensors.pt"
    assert result["stages"][0]["metrics"]["bytes"] == tensors.stat().st_size


def test_a_recipe_s_text_does_not_reach_the_terminal_raw(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = HEAD.replace("{name: digits}", r'{name: image_folder, root: "\e[31mRED\e]0;title\a"}')
    Path("g.yaml").write_text(f"{text}stages: [evaluate]\n")
    assert main(["apply", "g.yaml", "--trust"]) == 4
    printed = capsys.readouterr().err
    assert "RED" in printed
    assert "\x1b" not in printed
    assert "\a" not in printed


@pytest.mark.parametrize("words", [["validate", "absent.yaml"], ["report"], ["stages", "absent"]])
def test_a_traceback_is_printed_beside_the_same_exit_code(
    words: list[str], place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    plain = main(words)
    capsys.readouterr()
    assert main([*words, "--traceback"]) == plain
    assert "Traceback (most recent call last)" in capsys.readouterr().err


def test_a_gate_alone_re_runs_nothing_and_fails_on_cached_figures(
    place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = f"{HEAD}stages: [{{train: {{epochs: 1}}, gates: [{{metric: top1, min: 0}}]}}, evaluate]\n"
    assert apply(recipe, capsys)[0] == 0
    code, result = apply(recipe.replace("min: 0", "min: 99.9"), capsys)
    assert (code, statuses(result)) == (6, ["hit", "skipped"])
    gate = result["stages"][0]["gates"][0]
    assert (gate["limit"], gate["value"], gate["passed"]) == (99.9, result["stages"][0]["metrics"]["top1"], False)
    capsys.readouterr()
    assert main(["apply", "g.yaml", "--trust"]) == 6
    shown = capsys.readouterr()
    assert f"train: gate FAILED: top1 min: {gate['value']:.6g} (limit 99.9)" in shown.out
    assert "finished and kept: train" in shown.err
    assert "not run: 1 stage after it" in shown.err
    assert main(["report"]) == 0
    assert "gate FAILED: top1 min" in capsys.readouterr().out


def test_a_gate_on_what_was_not_reported_this_time_is_an_error(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    gates = "[{metric: figure, max: 1}]"
    (place / "odd_stages.py").write_text(PLUGIN.replace('metrics={"figure": float("nan")}', "metrics={}"))
    for status in ("run", "hit"):
        code, result = apply(f"{HEAD}stages: [{{odd: {{}}, gates: {gates}}}, evaluate]\n", capsys)
        assert (code, result["status"], statuses(result)) == (5, "failed", [status, "skipped"])
        assert result["errors"][0]["code"] == "MC501"


def test_what_a_stage_took_is_recorded(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    apply(f"{HEAD}stages: [{{train: {{epochs: 2}}}}]\n", capsys)
    (path,) = place.glob(".mcomp/actions/*/*.json")
    record = json.loads(path.read_text())["record"]
    assert record["peak_memory_bytes"] > 50_000_000  # torch alone is more
    assert record["cpu_seconds"] > 0
    assert (record["training_steps"] % 2, record["resumed"]) == (0, False)


def test_a_watcher_that_fails_does_not_stop_the_run(place: Path) -> None:
    from mcomp import Engine, Recipe

    def broken(event: dict[str, Any]) -> None:
        raise ConnectionError("no server")

    result = Engine(listeners=[broken]).apply(Recipe.from_text(f"{HEAD}stages: [evaluate]\n", trust=True))
    assert result.ok
    said = (Path(result.folder) / "events.jsonl").read_text()
    assert "no longer watches this run: ConnectionError: no server" in said
