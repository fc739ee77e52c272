"""Ask the stages of a plan, before the first of them runs, whether they can work on the recipe's model."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from mcomp.errors import PreflightError
from mcomp.stages.base import Stage

if TYPE_CHECKING:
    from torch import nn

    from mcomp.recipe import Recipe
    from mcomp.recipe.model import RecipeStage


def names_layers(stage: RecipeStage) -> bool:
    """Whether a stage has something to say of the model before it gets it."""
    return stage.cls.preflight.__func__ is not Stage.preflight.__func__  # type: ignore[attr-defined]


def refuse_unfit(model: nn.Module, stages: Iterable[RecipeStage], recipe: Recipe) -> None:
    """Refuse a plan of which a stage is sure to fail on this model.

    Only stages that mcomp's own stages alone come before are asked: those keep the names of layers, a plug-in need not.

    Args:
        model: the recipe's own, before any stage.
        stages: that would run.
        recipe: of all of them.

    Raises:
        PreflightError: MC263, the first that cannot do what its options ask.
    """
    for stage in stages:
        if not keeps_names(stage, recipe):
            continue
        for finding in stage.cls.preflight(model, stage.options):
            path = ".".join(["stages", stage.id, *map(str, finding.option)])
            raise PreflightError(f"`{path}`: {finding.message}", code="MC263", hint=finding.hint)


def keeps_names(stage: RecipeStage, recipe: Recipe) -> bool:
    """Whether mcomp's own stages alone come before a stage."""
    entries = {one.id: one for one in recipe.stages}
    source = stage.source
    while source is not None:
        entry = entries[source]
        ran = [entry] if isinstance(entry.otherwise, str) else [entry, entry.otherwise]
        if any(one.cls.__module__.partition(".")[0] != "mcomp" for one in ran):
            return False
        source = entry.source
    return True
