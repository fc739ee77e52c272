"""A resolved recipe as YAML text."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Set
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from mcomp.errors import UsageError, visible
from mcomp.recipe.paths import WELL_KNOWN, Steps, absolute, path_options
from mcomp.recipe.scalars import resolve
from mcomp.recipe.variables import ESCAPED, PLAIN

if TYPE_CHECKING:
    from mcomp.options import Options
    from mcomp.recipe.model import Recipe, RecipeStage


def lock_text(recipe: Recipe) -> str:
    """Everything that the recipe says, with nothing left to look up elsewhere."""
    from mcomp.models import registry

    if recipe.variants:
        raise UsageError(
            f"`{visible(recipe.path)}` is a sweep of {len(recipe.variants)} runs, and a lock is one of them",
            code="MC129",
            hint="`[one.lock() for one in recipe.variants]` has them all",
        )
    lines = [f"# resolved from {visible(recipe.path)}"]
    head: dict[str, Any] = {
        "version": recipe.version,
        "name": recipe.name,
        "seed": recipe.seed,
        "device": recipe.device,
        "precision": recipe.precision,
        "model": _flat(recipe.model_options, recipe, registry.needs_trust(recipe.model.name)),
        "data": _flat(recipe.data, recipe, ":" in str(getattr(recipe.data, "name", ""))),
    }
    if recipe.plugins:
        head["plugins"] = [str(path) for path in recipe.plugins]
    if recipe.metadata:
        head["metadata"] = recipe.metadata
    lines += [f"{key}: {flow(value)}" for key, value in head.items()]
    lines.append("stages:")
    for previous, stage in pairwise([None, *recipe.stages]):
        assert stage is not None
        lines += _stage(stage, previous, recipe)
    return "\n".join(lines) + "\n"


def _flat(options: Options, recipe: Recipe, user_code: bool) -> dict[str, Any]:
    names: Set[Steps] = path_options(type(options), WELL_KNOWN)
    if user_code and str(getattr(options, "name", "")).rpartition(":")[0].endswith(".py"):
        names = {*names, ("name",)}
    dumped = options.model_dump(mode="json", exclude_none=True, by_alias=True)
    found: dict[str, Any] = absolute(dumped, names, recipe.base_dir)
    return found


def _stage(stage: RecipeStage, previous: RecipeStage | None, recipe: Recipe) -> list[str]:
    name, *keywords = _entry(stage, recipe).items()
    lines = [f"  - {name[0]}: {flow(name[1])}", f"    id: {flow(stage.id)}"]
    if previous is not None and stage.source not in (None, previous.id):
        lines.append(f"    from: {flow(stage.source)}")
    return lines + [f"    {key}: {flow(value)}" for key, value in keywords]


def _entry(stage: RecipeStage, recipe: Recipe, instead_of: RecipeStage | None = None) -> dict[str, Any]:
    """An item of ``stages`` as it would be written, all but where it gets its model from and its id.

    One that runs in the place of another has that one's seed and cache unless it says otherwise.
    """
    options: Options = stage.options
    dumped = options.model_dump(mode="json", by_alias=True)
    entry: dict[str, Any] = {stage.uses: absolute(dumped, path_options(type(options)), recipe.base_dir)}
    if stage.when is False:
        entry["when"] = False
    elif stage.when is not True:
        entry["when"] = stage.when.model_dump(mode="json", exclude_defaults=True)
    if not isinstance(stage.otherwise, str):
        entry["otherwise"] = _entry(stage.otherwise, recipe, stage)
    elif stage.otherwise != "skip":
        entry["otherwise"] = stage.otherwise
    if stage.gates:
        entry["gates"] = [gate.model_dump(mode="json", exclude_none=True) for gate in stage.gates]
    seed, cache = (None, True) if instead_of is None else (instead_of.seed, instead_of.cache)
    if stage.seed != seed:
        entry["seed"] = stage.seed
    if stage.cache != cache:
        entry["cache"] = stage.cache
    return entry


def flow(value: Any) -> str:
    """One value in YAML flow style: JSON, with YAML's spelling of what JSON lacks."""
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{quoted(str(key), key=True)}: {flow(one)}" for key, one in value.items()) + "}"
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(flow, value))}]"
    if isinstance(value, str):
        return quoted(value)
    if isinstance(value, float) and not math.isfinite(value):
        return ".nan" if math.isnan(value) else ".inf" if value > 0 else "-.inf"
    return json.dumps(value)


def quoted(text: str, *, key: bool = False) -> str:
    """A string in double quotes, or as it is where it could be nothing else."""
    if key and text.isascii() and text.isidentifier() and resolve(text) == text:
        return text
    if not key:
        text = text.replace(PLAIN, ESCAPED)
    # JSON leaves some characters alone that YAML does not take, or takes for line ends
    return "".join(
        char if char.isprintable() else f"\\U{ord(char):08X}" if ord(char) > 0x7E else char
        for char in json.dumps(text, ensure_ascii=False)
    )
