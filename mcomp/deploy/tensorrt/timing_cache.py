"""Kernel times that TensorRT has measured before: a later build of any network skips what it knows.

The file is no part of an outcome's key: it changes how long a build takes, and which of equal kernels wins.
"""

from __future__ import annotations

import re
from pathlib import Path

from mcomp.data.cache import keep
from mcomp.deploy.cache_folder import cache_folder
from mcomp.deploy.tensorrt.protocols import BuilderConfig


def usual_place(version: str, gpu: str) -> Path:
    """A file per TensorRT and GPU below the person's cache: one cache is valid for one pair."""
    return cache_folder("tensorrt", re.sub(r"[^A-Za-z0-9.]+", "_", f"{version}_{gpu}") + ".timing")


def attach(config: BuilderConfig, path: Path) -> str:
    """Give ``config`` the times of ``path``, or none; what was wrong with the file, in words."""
    known = path.read_bytes() if path.is_file() else b""
    cache = config.create_timing_cache(known)
    if cache is not None and config.set_timing_cache(cache, False):
        return ""
    fresh = config.create_timing_cache(b"")
    if fresh is not None:
        config.set_timing_cache(fresh, False)
    return f"timing cache `{path}` is of another TensorRT or GPU, or damaged: a new one was begun"


def store(config: BuilderConfig, path: Path) -> str:
    """Write what ``config`` knows after a build, whole or not at all; what hindered it, in words."""
    cache = config.get_timing_cache()
    data = b"" if cache is None else bytes(cache.serialize())
    if data and not keep(path, lambda stream: stream.write(data)):
        return f"timing cache `{path}` could not be written: the next build measures again"
    return ""
