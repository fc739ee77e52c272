"""What a recipe learns of an artifact under ``weights`` while it is validated, whatever lies there."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from mcomp.models.artifact_log import surgery_of
from mcomp.models.artifact_manifest import LARGEST


def test_the_kinds_of_surgery_come_in_their_order(tmp_path: Path) -> None:
    (tmp_path / "manifest.json").write_text('{"surgery": [{"op": "prune"}, {"op": "fuse"}]}')
    assert surgery_of(tmp_path) == ["prune", "fuse"]


@pytest.mark.parametrize("text", ["[" * 1_000_000, "[]", "", "\0", '{"surgery": [{}]}', '{"surgery": 3}', "{}"])
def test_what_is_no_manifest_says_nothing(tmp_path: Path, text: str) -> None:
    (tmp_path / "manifest.json").write_text(text)
    assert surgery_of(tmp_path) == []


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="named pipes")
def test_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "manifest.json")
    assert surgery_of(tmp_path) == []


@pytest.mark.skipif(not Path("/dev/zero").exists(), reason="a device without an end")
def test_a_device_is_not_read(tmp_path: Path) -> None:
    (tmp_path / "manifest.json").symlink_to("/dev/zero")
    assert surgery_of(tmp_path) == []


def test_a_file_far_larger_than_any_manifest_is_not_read(tmp_path: Path) -> None:
    manifest = '{"surgery": [{"op": "prune"}]}'
    (tmp_path / "manifest.json").write_text(manifest + " " * 100)
    assert surgery_of(tmp_path) == ["prune"]
    os.truncate(tmp_path / "manifest.json", LARGEST + 1)
    assert surgery_of(tmp_path) == []
