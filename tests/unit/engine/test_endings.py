"""How a stage ended is told beside its status."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

from mcomp.engine import Engine
from mcomp.recipe import Recipe

RECIPE = """\
version: 1
name: e
model: {name: lenet}
data: {name: synthetic, samples: 120}
stages:
  - train: {epochs: 2}
  - {evaluate: {}, when: false}
  - {evaluate: {}, id: last}
"""


def outcomes(result: Any) -> list[tuple[str, str]]:
    return [(stage.status, stage.outcome) for stage in result.stages]


def test_a_signal_leaves_an_interrupted_stage_and_others_not_run_and_the_next_run_says_it_resumes(
    tmp_path: Path,
) -> None:
    told: list[str] = []

    def interrupts(event: dict[str, Any]) -> None:
        if event["event"] == "epoch" and event["epoch"] == 1:
            os.kill(os.getpid(), signal.SIGINT)

    def hears(event: dict[str, Any]) -> None:
        if event["event"] == "notice":
            told.append(event["text"])

    recipe = Recipe.from_text(RECIPE)
    first = Engine(tmp_path / "store", listeners=[interrupts]).apply(recipe)
    assert first.status == "interrupted"
    assert outcomes(first) == [("failed", "interrupted"), ("skipped", "not run"), ("skipped", "not run")]
    second = Engine(tmp_path / "store", listeners=[hears]).apply(recipe)
    assert outcomes(second) == [("resumed", "resumed"), ("skipped", "skipped"), ("run", "run")]
    assert any(text.startswith("resuming `train` from the snapshot") for text in told)


def test_a_stage_that_another_process_computes_did_not_fail_but_was_not_waited_for(tmp_path: Path) -> None:
    engine, recipe = Engine(tmp_path / "store"), Recipe.from_text(RECIPE)
    key = engine.plan(recipe)["train"].key
    assert key is not None
    with engine.store.lock(key):
        result = engine.apply(recipe, wait=False)
    assert result.exit_code == 8
    assert outcomes(result)[0] == ("failed", "waiting refused")
