"""What is made to hurt is answered with a diagnostic, inside 200 MB, and nothing of it is executed."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

from tests.conftest import ROOT
from tests.corpus.hostile import GROUPS


@pytest.mark.parametrize("group", GROUPS)
def test_every_attack_is_refused_and_none_is_executed(group: str) -> None:
    # a process of its own: each case is a fork of it that may grow by 200 MB
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-m", "tests.corpus.hostile", group],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert len(found) >= 25
    assert [name for name, one in found.items() if one["executed"]] == []
    assert {name: one["said"] for name, one in found.items() if not one["as_wanted"]} == {}
