"""Devices and number formats, found out without importing torch.

An action's key holds the resolved device and precision, and keys are made before torch is needed. So the CPU is read
from ``/proc/cpuinfo`` and the GPU asked through the driver's own library, ``libcuda``.
"""

from __future__ import annotations

import ctypes
import functools
import importlib.util
import math
import os
import platform
import re
import sys
from pathlib import Path
from typing import Any

from mcomp.errors import BackendMissingError, UsageError

DEVICE_SYNTAX = re.compile(r"auto|cpu|cuda(?::(?P<index>\d+))?")
PRECISIONS = ("auto", "fp32", "bf16")

_CAPABILITY_MAJOR, _CAPABILITY_MINOR = 75, 76  # CUdevice_attribute


def resolve_device(device: str) -> str:
    """``auto`` to ``cuda`` where a usable GPU answers, else ``cpu``; anything else is checked and kept.

    Args:
        device: ``auto``, ``cpu``, ``cuda`` or ``cuda:n``.

    Raises:
        UsageError: the text is none of these.
        BackendMissingError: a GPU was asked for that does not answer.
    """
    match = DEVICE_SYNTAX.fullmatch(device)
    if match is None:
        raise UsageError(f"unknown device `{device}`", code="MC245", hint="write `auto`, `cpu`, `cuda` or `cuda:1`")
    if device == "cpu":
        return device
    trouble = _no_cuda()
    if device == "auto":
        return "cpu" if trouble else "cuda"
    if trouble:
        raise BackendMissingError(
            f"device `{device}` was asked for, but {trouble}",
            code="MC601",
            hint="use `--set device=auto` or `--set device=cpu`",
        )
    index, count = int(match["index"] or 0), len(_gpus())
    if index >= count:
        raise BackendMissingError(
            f"device `{device}` was asked for, but this machine shows {count} GPU{'s' * (count != 1)}, counted from 0",
            code="MC601",
            hint="`CUDA_VISIBLE_DEVICES` may hide some; use `--set device=auto`",
        )
    return device


def resolve_precision(precision: str, device: str) -> str:
    """``auto`` to ``bf16`` where the device computes it natively, else ``fp32``.

    Native: a CPU with AVX512-BF16 or AMX-BF16, a GPU of compute capability 8.0 or more. An explicit ``bf16``
    is kept everywhere; where it is emulated it is only slow.

    Args:
        precision: ``auto``, ``fp32`` or ``bf16``.
        device: as :func:`resolve_device` returned it.

    Raises:
        UsageError: another precision.
    """
    if precision not in PRECISIONS:
        raise UsageError(f"unknown precision `{precision}`", code="MC246", hint="write `auto`, `fp32` or `bf16`")
    if precision != "auto":
        return precision
    if device.startswith("cuda"):
        found = gpu(int(device.partition(":")[2] or 0))
        return "bf16" if found is not None and found["sm"] >= 80 else "fp32"
    return "bf16" if cpu_flags() & {"avx512_bf16", "amx_bf16"} else "fp32"


def gpu(index: int = 0) -> dict[str, Any] | None:
    """``{"name": str, "sm": int}`` of a GPU, e.g. ``sm`` 90 for compute capability 9.0; None where none answers."""
    found = _gpus()
    return dict(found[index]) if index < len(found) else None


def threads() -> int:
    """CPU threads worth using: ``OMP_NUM_THREADS`` if set, else the cores this process may run on, at least 1.

    A container's CPU quota (cgroup v2) counts: eight threads on two cores' worth of time only wait for each other.
    """
    asked = os.environ.get("OMP_NUM_THREADS", "").partition(",")[0]
    if asked.isdigit() and int(asked) > 0:
        return int(asked)
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quota = _read(Path("/sys/fs/cgroup/cpu.max")).split()
    if len(quota) == 2 and all(part.isdigit() for part in quota):
        cores = min(cores, math.ceil(int(quota[0]) / int(quota[1])))
    return max(cores, 1)


@functools.lru_cache(maxsize=1)
def cpu_flags() -> frozenset[str]:
    """Instruction sets of the first core as Linux names them; empty elsewhere."""
    match = re.search(r"^(?:flags|Features)\s*:\s*(.*)$", _read(Path("/proc/cpuinfo")), re.MULTILINE)
    return frozenset(match[1].split()) if match else frozenset()


def processor() -> str:
    """The CPU's model and how many cores it shows, as far as the system says."""
    match = re.search(r"^model name\s*:\s*(.*)$", _read(Path("/proc/cpuinfo")), re.MULTILINE)
    model = match[1].strip() if match else platform.processor() or platform.machine()
    return f"{model} x {os.cpu_count()}"


def _no_cuda() -> str:
    """Why torch could not use a GPU here; empty when it could."""
    built_for = _torch_cuda()
    if not built_for:
        return "the installed torch is built without CUDA"
    if not _gpus():
        return "no NVIDIA driver with a GPU answers on this machine"
    driver = _driver_version()
    if driver // 1000 < int(built_for.partition(".")[0]):
        speaks = f"{driver // 1000}.{driver % 1000 // 10}"
        return f"the GPU driver speaks CUDA {speaks} and the installed torch needs {built_for}"
    return ""


@functools.lru_cache(maxsize=1)
def _torch_cuda() -> str:
    """The CUDA version that the installed torch was built for, read from its ``version.py``; empty for none."""
    spec = importlib.util.find_spec("torch")
    if spec is None or spec.origin is None:
        return ""
    match = re.search(r"^cuda\b[^=]*=\s*'([\d.]+)'", _read(Path(spec.origin).with_name("version.py")), re.MULTILINE)
    return match[1] if match else ""


@functools.lru_cache(maxsize=1)
def _driver() -> ctypes.CDLL | None:
    """The initialised CUDA driver library, or None."""
    try:
        library = ctypes.CDLL("nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1")
        return library if library.cuInit(0) == 0 else None
    except (OSError, AttributeError):  # no driver installed, or a file of that name that is none
        return None


@functools.lru_cache(maxsize=1)
def _driver_version() -> int:
    """The newest CUDA that the driver runs, as 1000 × major + 10 × minor; 0 without a driver."""
    library, version = _driver(), ctypes.c_int(0)
    if library is None or library.cuDriverGetVersion(ctypes.byref(version)) != 0:
        return 0
    return version.value


@functools.lru_cache(maxsize=1)
def _gpus() -> tuple[dict[str, Any], ...]:
    """Name and capability of every GPU, in the driver's order, which is torch's."""
    library, count = _driver(), ctypes.c_int(0)
    if library is None or library.cuDeviceGetCount(ctypes.byref(count)) != 0:
        return ()
    found: list[dict[str, Any]] = []
    for ordinal in range(count.value):
        device, name = ctypes.c_int(0), ctypes.create_string_buffer(256)
        major, minor = ctypes.c_int(0), ctypes.c_int(0)
        answers = (
            library.cuDeviceGet(ctypes.byref(device), ordinal),
            library.cuDeviceGetName(name, len(name), device),
            library.cuDeviceGetAttribute(ctypes.byref(major), _CAPABILITY_MAJOR, device),
            library.cuDeviceGetAttribute(ctypes.byref(minor), _CAPABILITY_MINOR, device),
        )
        if any(answers):
            return tuple(found)
        found.append({"name": name.value.decode(errors="replace"), "sm": 10 * major.value + minor.value})
    return tuple(found)


def _read(path: Path) -> str:
    """The file's text, empty when there is no such file here."""
    try:
        return path.read_text(errors="replace")
    except OSError:
        return ""
