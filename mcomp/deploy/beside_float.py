"""Words for what a deployed file gains over the same network in float, and plain ones where it gains nothing."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mcomp.errors import plural

if TYPE_CHECKING:
    from mcomp.metrics import Latency


def size_beside_float(file: str, size: int, fp32_size: int) -> str:
    """How large a file is beside its float one; both in bytes on disk."""
    both = f"{_kilobytes(size)}, in fp32 {_kilobytes(fp32_size)}"
    if size > fp32_size:
        return f"`{file}` is larger than its float file: {both}"
    return f"`{file}` is {fp32_size / size:.2f} × smaller than its float file: {both}"


def speed_beside_float(file: str, own: Latency, fp32: Latency, backend: str) -> str:
    """How fast a file is beside its float one, in one runtime and one run."""
    ratio = fp32.median_ms / own.median_ms
    where = f"in {backend} at batch {own.batch} on {plural(own.threads, 'thread')}"
    both = f"{own.median_ms:.3g} ms, fp32 {fp32.median_ms:.3g} ms"
    if f"{ratio:.2f}" == "1.00":
        return f"`{file}` is as fast as its float file {where}: {both}"
    if ratio < 1:
        return f"`{file}` is slower than its float file {where}, {ratio:.2f} × its speed: {both}"
    return f"`{file}` is {ratio:.2f} × as fast as its float file {where}: {both}"


def _kilobytes(size: int) -> str:
    return f"{size / 1e3:.1f} kB"
