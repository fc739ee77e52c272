"""What is freed stays, unless a person tuned malloc."""

from __future__ import annotations

import platform
import subprocess
import sys

import pytest

GLIBC = pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="mallopt is glibc's")

#: Page faults of taking and freeing 64 MB twenty times, after ten times.
FAULTS = """
import resource, torch
from mcomp.training.malloc import keep_freed_memory
{call}
def once():
    torch.ones(16 << 20)
for _ in range(10):
    once()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(20):
    once()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def faults(call: str) -> int:
    found = subprocess.run([sys.executable, "-c", FAULTS.format(call=call)], capture_output=True, text=True, check=True)
    return int(found.stdout)


@GLIBC
def test_memory_that_was_freed_is_taken_again_without_asking_the_kernel() -> None:
    assert faults("assert keep_freed_memory()") * 10 < faults("")


@GLIBC
@pytest.mark.parametrize("name", ["MALLOC_ARENA_MAX", "GLIBC_TUNABLES"])
def test_a_persons_own_tuning_is_left_alone(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from mcomp.training.malloc import keep_freed_memory

    monkeypatch.setenv(name, "1")
    assert not keep_freed_memory()
