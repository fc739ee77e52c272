"""A person's folder for what saves time and nothing else."""

from __future__ import annotations

import os
from pathlib import Path


def cache_folder(*parts: str) -> Path:
    """Below ``$MCOMP_CACHE``, else ``$XDG_CACHE_HOME/mcomp``, else ``~/.cache/mcomp``; not made here."""
    told, home = os.environ.get("MCOMP_CACHE"), os.environ.get("XDG_CACHE_HOME")
    return (Path(told) if told else Path(home or Path.home() / ".cache") / "mcomp").joinpath(*parts)
