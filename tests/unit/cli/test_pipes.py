"""Who stops reading what mcomp prints changes nothing of what it does."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from typing import TextIO

import pytest

from mcomp.cli.main import main


@pytest.fixture
def broken() -> Iterator[TextIO]:
    """A stream into a pipe that nobody reads."""
    reader, writer = os.pipe()
    os.close(reader)
    with open(writer, "w") as stream:  # closing it would fail if something were left in it
        yield stream


@pytest.mark.parametrize("words", [["stages"], ["stages", "train"], ["--version"], ["help"], ["models", "--json"]])
def test_a_closed_standard_output_leaves_the_exit_code_alone(
    words: list[str], broken: TextIO, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "stdout", broken)
    assert main(words) == 0
    broken.flush()
    assert sys.stdout is broken


def test_a_closed_standard_error_leaves_the_exit_code_alone(broken: TextIO, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stderr", broken)
    assert main(["aply"]) == 2
