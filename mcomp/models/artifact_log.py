"""What was done to a saved model, read from its folder without torch."""

from __future__ import annotations

import json
import os
import stat
from pathlib import Path

from mcomp.models.artifact_manifest import LARGEST


def surgery_of(weights: Path) -> list[str]:
    """The kinds of surgery (``prune``, ``quantize``, ``fuse``) in an artifact's log, in order.

    Empty for a state_dict file, and for what is no readable artifact: loading says what is wrong with that.
    """
    try:
        manifest = json.loads(_regular_file(weights / "manifest.json"))
        return [str(entry["op"]) for entry in manifest["surgery"]]
    except (OSError, ValueError, KeyError, TypeError, RecursionError):  # the last of brackets in brackets
        return []


def _regular_file(path: Path) -> bytes:
    """A file's bytes; a pipe is not waited for, and a device not read."""
    handle = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
    with open(handle, "rb") as stream:
        status = os.fstat(handle)
        if not stat.S_ISREG(status.st_mode) or status.st_size > LARGEST:
            raise ValueError(f"`{path}` is no manifest")
        return stream.read(LARGEST)
