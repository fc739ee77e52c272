"""Files that save time and nothing else: losing or not keeping one must never fail a run. No torch here."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import IO


def keep(path: Path, write: Callable[[IO[bytes]], object]) -> bool:
    """Put a file in place whole or not at all, so that two runs at once cannot mix.

    A full or read-only disk costs the file, not the run, and leaves nothing behind.

    Args:
        path: where; missing folders are made.
        write: writes the content to the binary file that it is handed.

    Returns:
        Whether the file is there now.
    """
    partial: Path | None = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=path.parent, delete=False) as stream:
            partial = Path(stream.name)
            write(stream)
        os.replace(partial, path)
        partial = None
    except (OSError, RuntimeError):  # torch reports a failed write as RuntimeError
        return False
    finally:
        if partial is not None:
            partial.unlink(missing_ok=True)
    return True
