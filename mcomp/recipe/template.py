"""The recipe that ``mcomp init`` writes."""

from __future__ import annotations

from importlib import resources

from mcomp.errors import UsageError
from mcomp.recipe.stage_entries import NAME


def init_text(name: str = "my_recipe") -> str:
    """A small commented recipe that validates as it is.

    Args:
        name: of the recipe.

    Raises:
        UsageError: the name is not one a recipe may have.
    """
    if not NAME.fullmatch(name):
        raise UsageError(
            f"`{name}` cannot name a recipe",
            code="MC201",
            hint="use letters, digits, `_`, `.` and `-`, at most 64, starting with a letter or digit",
        )
    text = resources.files("mcomp.recipe").joinpath("templates/minimal.yaml").read_text(encoding="utf-8")
    return text.replace("my_recipe", name, 1)
