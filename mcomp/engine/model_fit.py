"""Pass two samples through the recipe's model before anything runs: it must take them, and give what can be scored."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

import torch

from mcomp.engine.unfit import keeps_names
from mcomp.errors import PreflightError

if TYPE_CHECKING:
    from torch import nn

    from mcomp.data import Data
    from mcomp.recipe import Recipe
    from mcomp.recipe.model import RecipeStage


def check_fit(model: nn.Module, data: Data, recipe: Recipe, stages: Iterable[RecipeStage]) -> None:
    """See that a model takes the data's images, and gives one score per class for each.

    More scores than classes are good enough for measuring, and refused where a stage would train on them.

    Args:
        model: the recipe's own, before any stage.
        data: of the recipe.
        recipe: of both.
        stages: that would run.

    Raises:
        PreflightError: MC260, it does not take them; MC261, it gives something else.
    """
    shape = tuple(data.example_inputs[0].shape)
    now = f"`data.image_size` (now {shape[-2]}x{shape[-1]}) or `data.channels` (now {shape[1]})"
    try:
        with torch.inference_mode():
            output = model(*data.example_inputs)
    except Exception as error:
        raise PreflightError(
            f"model `{recipe.model.name}` cannot take an input of shape {shape}: {error}",
            code="MC260",
            hint=f"set {now} to what it expects",
        ) from error
    _check_output(output, data, recipe, lambda: any(_trains(stage, recipe) for stage in stages))


def _check_output(output: object, data: Data, recipe: Recipe, trains: Callable[[], bool]) -> None:
    images, classes = len(data.example_inputs[0]), data.num_classes
    hint = f"let `forward` return one tensor of logits, of shape (images, {classes})"
    if not isinstance(output, torch.Tensor):
        parts = f" of {len(output)}" if isinstance(output, tuple | list | dict) else ""
        found = f"returns a {type(output).__name__}{parts}, not one tensor"
    elif output.dim() != 2 or output.shape[0] != images:
        found = f"returns a tensor of shape {tuple(output.shape)} for {images} images"
    elif output.shape[1] < classes or (output.shape[1] > classes and trains()):
        found = f"gives {output.shape[1]} scores per image"
        hint = _how_to_change(recipe, classes)
    else:
        return
    raise PreflightError(
        f"model `{recipe.model.name}` {found}; data `{data.name}` has {classes} classes, "
        "and each wants one score per image",
        code="MC261",
        hint=hint,
    )


def _how_to_change(recipe: Recipe, classes: int) -> str:
    """What sets the number of outputs: the recipe, or the factory, which may not look at it."""
    from mcomp.models.registry import needs_trust
    from mcomp.models.user_factory import accepts, load_factory

    name = recipe.model.name
    if needs_trust(name) and not accepts(load_factory(name, recipe.base_dir), "num_classes"):
        function = name.rpartition(":")[2]
        return (
            f"`{function}` has no argument `num_classes`: write `def {function}(num_classes)` and make so many "
            f"outputs; it is then called with {classes}"
        )
    if recipe.model.num_classes not in (None, classes):
        return f"set `model.num_classes: {classes}`, or leave it out: it follows the data"
    if ":" not in name:
        return f"set `model.num_classes: {classes}`"
    return f"it was called with `num_classes={classes}`: make so many outputs of it"


def _trains(stage: RecipeStage, recipe: Recipe) -> bool:
    """Whether mcomp itself trains there on what its own stages alone made of the model."""
    work = stage.cls.work(stage.options) if stage.cls.__module__.partition(".")[0] == "mcomp" else None
    return work is not None and work.training is not None and keeps_names(stage, recipe)
