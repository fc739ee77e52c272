from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from mcomp.errors import BackendMissingError, UsageError
from mcomp.training import hardware

H200 = {"name": "NVIDIA H200", "sm": 90}
T4 = {"name": "Tesla T4", "sm": 75}


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """A machine with two GPUs and a CPU without bfloat16."""
    monkeypatch.setattr(hardware, "_gpus", lambda: (H200, T4))
    monkeypatch.setattr(hardware, "_torch_cuda", lambda: "13.0")
    monkeypatch.setattr(hardware, "_driver_version", lambda: 13000)
    monkeypatch.setattr(hardware, "cpu_flags", lambda: frozenset({"avx2"}))
    return monkeypatch


def test_hardware_is_found_out_without_torch() -> None:
    code = (
        "import sys; from mcomp.training import gpu, resolve_device, resolve_precision, threads, TrainSettings;"
        "device = resolve_device('auto'); resolve_precision('auto', device); gpu(); threads(); TrainSettings();"
        "assert not {'torch', 'numpy'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_auto_takes_the_gpu_where_one_answers(machine: pytest.MonkeyPatch) -> None:
    assert hardware.resolve_device("auto") == "cuda"
    assert hardware.resolve_device("cuda:1") == "cuda:1"
    assert hardware.resolve_device("cpu") == "cpu"


def test_auto_takes_the_cpu_where_torch_has_no_cuda(machine: pytest.MonkeyPatch) -> None:
    machine.setattr(hardware, "_torch_cuda", lambda: "")
    assert hardware.resolve_device("auto") == "cpu"
    with pytest.raises(BackendMissingError, match="torch is built without CUDA"):
        hardware.resolve_device("cuda")


def test_a_gpu_that_is_not_there_is_refused_with_the_reason(machine: pytest.MonkeyPatch) -> None:
    with pytest.raises(BackendMissingError, match="shows 2 GPUs, counted from 0"):
        hardware.resolve_device("cuda:2")
    machine.setattr(hardware, "_driver_version", lambda: 12040)
    with pytest.raises(BackendMissingError, match=r"speaks CUDA 12\.4 and the installed torch needs 13\.0"):
        hardware.resolve_device("cuda")
    machine.setattr(hardware, "_gpus", lambda: ())
    with pytest.raises(BackendMissingError, match="no NVIDIA driver with a GPU answers") as caught:
        hardware.resolve_device("cuda:1")
    assert caught.value.exit_code == 7


@pytest.mark.parametrize("text", ["gpu", "cuda:", "cuda:x", "CPU", "", "cuda:-1"])
def test_other_device_names_are_refused(text: str) -> None:
    with pytest.raises(UsageError, match="unknown device"):
        hardware.resolve_device(text)


def test_precision_follows_what_the_device_computes_natively(machine: pytest.MonkeyPatch) -> None:
    assert hardware.resolve_precision("auto", "cuda") == "bf16"
    assert hardware.resolve_precision("auto", "cuda:1") == "fp32"
    assert hardware.resolve_precision("auto", "cpu") == "fp32"
    assert hardware.resolve_precision("bf16", "cpu") == "bf16"
    machine.setattr(hardware, "cpu_flags", lambda: frozenset({"avx2", "amx_bf16"}))
    assert hardware.resolve_precision("auto", "cpu") == "bf16"
    assert hardware.resolve_precision("fp32", "cpu") == "fp32"
    with pytest.raises(UsageError, match="unknown precision `fp16`"):
        hardware.resolve_precision("fp16", "cpu")


def test_the_gpu_is_described_by_name_and_capability(machine: pytest.MonkeyPatch) -> None:
    assert hardware.gpu() == H200
    assert hardware.gpu(1) == T4
    assert hardware.gpu(2) is None


def test_threads_follow_the_environment_and_the_quota(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    assert hardware.threads() == 3
    monkeypatch.delenv("OMP_NUM_THREADS")
    monkeypatch.setattr(hardware.os, "sched_getaffinity", lambda _pid: set(range(16)), raising=False)
    monkeypatch.setattr(hardware, "_read", lambda path: "150000 100000" if path.name == "cpu.max" else "")
    assert hardware.threads() == 2
    monkeypatch.setattr(hardware, "_read", lambda path: "max 100000")
    assert hardware.threads() == 16


def test_cpu_flags_are_read_as_linux_writes_them(monkeypatch: pytest.MonkeyPatch) -> None:
    text = "processor\t: 0\nflags\t\t: fpu avx512_bf16\n\nprocessor\t: 1\nflags\t\t: fpu\n"
    monkeypatch.setattr(hardware, "_read", lambda path: text)
    hardware.cpu_flags.cache_clear()
    assert hardware.cpu_flags() == {"fpu", "avx512_bf16"}
    hardware.cpu_flags.cache_clear()


def test_a_processor_is_told_by_its_model_and_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hardware.os, "cpu_count", lambda: 4)
    monkeypatch.setattr(hardware, "_read", lambda path: "processor\t: 0\nmodel name\t: ACME 9 @ 2 GHz\nmodel name\t: B")
    assert hardware.processor() == "ACME 9 @ 2 GHz x 4"
    monkeypatch.setattr(hardware, "_read", lambda path: "")
    monkeypatch.setattr(hardware.platform, "processor", lambda: "")
    monkeypatch.setattr(hardware.platform, "machine", lambda: "riscv64")
    assert hardware.processor() == "riscv64 x 4"


def test_a_file_that_is_not_there_reads_as_nothing() -> None:
    assert hardware._read(Path("/nowhere/at/all")) == ""
