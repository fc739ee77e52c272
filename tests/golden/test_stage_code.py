"""A release answers for its stages by their versions: code that computes something else must raise one."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest

from tests.golden.record_stage_code import COMMAND, RECORD, Now, faults, renewed, tree

TRAIN = Now(1, "a" * 64, {"mcomp.training.loop": "111111111111"}, "mcomp/stages/builtin/train.py")
CHANGED = replace(TRAIN, digest="b" * 64, files={"mcomp.training.loop": "222222222222"})


@pytest.fixture
def record() -> dict[str, Any]:
    found, _ = renewed(None, {"train": TRAIN})
    return found


def test_the_tree_is_as_recorded() -> None:
    assert RECORD.exists(), f"nothing is recorded yet: run `{COMMAND}`"
    found = faults(json.loads(RECORD.read_text()), tree())
    assert not found, "\n" + "\n".join(found)


def test_every_acknowledged_change_says_why() -> None:
    for name, known in json.loads(RECORD.read_text())["code"].items():
        assert all(len(one["reason"].split()) >= 3 for one in known["acknowledged"]), name


def test_a_change_without_a_new_version_is_a_fault_that_names_file_and_command(record: dict[str, Any]) -> None:
    assert faults(record, {"train": TRAIN}) == []
    (fault,) = faults(record, {"train": CHANGED})
    for word in ("`train`", "mcomp.training.loop", "mcomp/stages/builtin/train.py", COMMAND, "--because"):
        assert word in fault


def test_a_change_is_recorded_only_with_a_version_or_a_reason(record: dict[str, Any]) -> None:
    _, held_up = renewed(record, {"train": CHANGED})
    assert held_up == ["train"]
    acknowledged, held_up = renewed(record, {"train": CHANGED}, "only a message reads differently")
    assert not held_up
    assert faults(acknowledged, {"train": CHANGED}) == []
    assert faults(acknowledged, {"train": TRAIN})  # the way back is a change too
    raised, held_up = renewed(acknowledged, {"train": replace(CHANGED, version=2)})
    assert not held_up
    assert raised["code"]["train"]["acknowledged"] == []


def test_a_raised_version_has_to_be_recorded_and_none_goes_back(record: dict[str, Any]) -> None:
    assert COMMAND in faults(record, {"train": replace(CHANGED, version=2)})[0]
    assert renewed(record, {"train": replace(TRAIN, version=0)}, "no good reason at all")[1] == ["train"]


def test_all_code_that_a_release_vouches_for_is_held() -> None:
    now = tree()
    assert {"train", "trt_int8", "models.nin_gc", "data.digits", "data.cifar10", "metrics"} <= now.keys()
    assert "mcomp.training.loop" in now["train"].files
    assert "mcomp.data.augment" in now["data.digits"].files
    assert "mcomp.models.network_in_network" in now["models.nin"].files
    assert "mcomp.metrics.cost" in now["metrics"].files
