"""What several suites share: one run of the flagship recipe, made once per session."""

from __future__ import annotations

import atexit
import json
import os
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings

# a loaded machine is slow, not wrong: no test of ours depends on time
settings.register_profile("untimed", deadline=None)
settings.load_profile("untimed")

if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # of every worker and of what it starts: they share the cores
os.environ.pop("MCOMP_STORE", None)  # a tester's own store is none of a test's business
os.environ["MCOMP_CACHE"] = tempfile.mkdtemp(prefix="mcomp-cache-")  # nor are calibrations of another day
atexit.register(shutil.rmtree, os.environ["MCOMP_CACHE"], ignore_errors=True)

ROOT = Path(__file__).parent.parent
FLAGSHIP = ROOT / "recipes" / "nin_gc_prune_quant.yaml"


def run_mcomp(*words: str, cwd: Path = ROOT, **environment: str) -> subprocess.CompletedProcess[str]:
    """``python -m mcomp …`` in a process of its own, as a person runs it."""
    variables = {**os.environ, "PYTHONPATH": str(ROOT), "NO_COLOR": "1", **environment}
    command = [sys.executable, "-W", "ignore", "-m", "mcomp", *words]
    return subprocess.run(command, cwd=cwd, env=variables, capture_output=True, text=True, check=False)


@dataclass(frozen=True)
class FlagshipRun:
    """The store a cold run of the flagship filled, and what ``--json`` said of it."""

    store: Path
    result: dict[str, Any]

    def metrics(self, stage: str) -> dict[str, Any]:
        found: dict[str, Any] = next(one for one in self.result["stages"] if one["id"] == stage)["metrics"]
        return found

    def files(self, stage: str) -> dict[str, str]:
        found: dict[str, str] = next(one for one in self.result["stages"] if one["id"] == stage)["files"]
        return found


@pytest.fixture(scope="session")
def flagship(tmp_path_factory: pytest.TempPathFactory) -> FlagshipRun:
    store = tmp_path_factory.mktemp("flagship") / "store"
    done = run_mcomp("apply", str(FLAGSHIP), "--store", str(store), "--json")
    assert done.returncode == 0, done.stderr
    return FlagshipRun(store, json.loads(done.stdout))
