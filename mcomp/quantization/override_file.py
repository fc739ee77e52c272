"""Overrides out of a file, such as the result of a search: bits and schemes by layer."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from mcomp.errors import UsageError


def read_overrides(path: str | Path) -> dict[str, dict[str, Any]]:
    """The overrides in a YAML or JSON file: pattern to ``{w_bits: 4, …}``, at the top or below the key ``overrides``.

    Raises:
        UsageError: the file cannot be read, or holds something else.
    """
    held = read_yaml(path)
    if isinstance(held, dict) and isinstance(held.get("overrides"), dict):
        held = held["overrides"]
    if not isinstance(held, dict) or not all(isinstance(own, dict) for own in held.values()):
        raise UsageError(
            f"`{path}` holds no overrides",
            code="MC427",
            why="every entry is a pattern of layer names and a mapping",
            hint="write e.g. `features.3: {w_bits: 4, a_bits: 8}`",
        )
    return {str(pattern): {str(key): value for key, value in own.items()} for pattern, own in held.items()}


def read_yaml(path: str | Path) -> Any:
    """What a YAML or JSON file that an option names holds.

    Raises:
        UsageError: MC427, it cannot be read.
    """
    try:
        return yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        reason = str(error).partition("\n")[0]
        raise UsageError(f"`{path}` cannot be read: {reason}", code="MC427", hint="name a YAML or JSON file") from error
