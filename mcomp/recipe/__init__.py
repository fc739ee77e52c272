"""Text to a validated recipe. No torch anywhere in this package.

::

    load (YAML 1.2 core, positions) -> extends, drop, override, insert -> --set -> sweep -> vars
        -> one validation -> Recipe
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mcomp.errors import render
    from mcomp.recipe.conditions import When
    from mcomp.recipe.gates import Gate
    from mcomp.recipe.json_schema import recipe_json_schema
    from mcomp.recipe.model import Recipe, RecipeStage
    from mcomp.recipe.template import init_text

_HOMES = {
    "Gate": "mcomp.recipe.gates",
    "Recipe": "mcomp.recipe.model",
    "RecipeStage": "mcomp.recipe.model",
    "When": "mcomp.recipe.conditions",
    "init_text": "mcomp.recipe.template",
    "recipe_json_schema": "mcomp.recipe.json_schema",
    "render": "mcomp.errors",
}

__all__ = ["Gate", "Recipe", "RecipeStage", "When", "init_text", "recipe_json_schema", "render"]


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(importlib.import_module(_HOMES[name]), name)
    raise AttributeError(f"module `mcomp.recipe` has no attribute `{name}`")


def __dir__() -> list[str]:
    return sorted(__all__)
