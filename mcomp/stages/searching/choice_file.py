"""The file of a search's choice, read without torch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from mcomp.errors import UsageError


def choice_file(path: Path) -> dict[str, Any]:
    """What a ``best.yaml`` holds: ``overrides``, ``keep``, or both.

    Raises:
        UsageError: MC499, it holds none, or cannot be read.
    """
    import yaml

    try:
        held = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise no_choice(path, str(error).partition("\n")[0]) from error
    if not isinstance(held, dict) or not any(isinstance(held.get(key), dict) for key in ("overrides", "keep")):
        raise no_choice(path, "it has neither `overrides` nor `keep`")
    return held


def no_choice(path: Path, why: str) -> UsageError:
    """What is said of a file that holds no choice."""
    return UsageError(
        f"`{path}` holds no choice of a search",
        code="MC499",
        why=why,
        hint="name the `best.yaml` that a search wrote",
    )
