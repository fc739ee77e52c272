"""What was done to a saved model, read from its folder without torch."""

from __future__ import annotations

import json
from pathlib import Path


def surgery_of(weights: Path) -> list[str]:
    """The kinds of surgery (``prune``, ``quantize``, ``fuse``) in an artifact's log, in order.

    Empty for a state_dict file, and for what is no readable artifact: loading says what is wrong with that.
    """
    try:
        manifest = json.loads((weights / "manifest.json").read_bytes())
        return [str(entry["op"]) for entry in manifest["surgery"]]
    except (OSError, ValueError, KeyError, TypeError):
        return []
