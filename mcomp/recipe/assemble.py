"""From a text to a validated recipe, in the one order there is."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mcomp.errors import RecipeError
from mcomp.options import Options
from mcomp.recipe.diagnostics import Faults, shown
from mcomp.recipe.loader import parse
from mcomp.recipe.model import Recipe, RecipeStage
from mcomp.recipe.schema import LATER_KEYS, RecipeModel
from mcomp.recipe.sections import Surround, load_plugins, read_data, read_model, validate
from mcomp.recipe.sets import apply_sets
from mcomp.recipe.stage_validation import Checked, check_stages
from mcomp.recipe.traits import traits_after
from mcomp.recipe.translate import Section, got
from mcomp.recipe.tree import ListNode, MapNode, Mark, Source, plain
from mcomp.recipe.variables import substitute, used


def assemble(source: Source, faults: Faults, *, sets: Sequence[str], around: Surround) -> Recipe:
    """Load, compose, set, substitute, validate.

    Args:
        source: the recipe's text.
        faults: what reading the file found already; receives everything else.
        sets: ``path=value`` texts, in order.
        around: folders and trust.

    Raises:
        RecipeError: with every fault.
    """
    root = _root(source, faults)
    if root is None:
        raise RecipeError([*faults.errors, *faults.warnings])
    _refuse_composition(root, faults)
    before = used(root)
    apply_sets(root, sets, faults)
    substitute(root, faults, before)
    return _validated(source, root, faults, sets, around)


def _root(source: Source, faults: Faults) -> MapNode | None:
    root = parse(source, faults)
    start = Mark(source, 1, 1)
    if isinstance(root, MapNode):
        return root
    if root is not None:
        faults.error("MC104", f"a recipe must be a mapping (`key: value`), got {got(root)}", root.mark)
    elif not faults.errors:
        faults.error("MC101", "the recipe is empty", start, hint="`mcomp init` writes a first recipe")
    return None


def _refuse_composition(root: MapNode, faults: Faults) -> None:
    """The place where recipes will be composed; until then these keys are refused by name."""
    for key in LATER_KEYS:
        entry = root.entries.pop(key, None)
        if entry is not None:
            faults.error("MC109", f"`{key}` is not available in this version of mcomp", entry.key)


def _validated(source: Source, root: MapNode, faults: Faults, sets: Sequence[str], around: Surround) -> Recipe:
    start = Mark(source, 1, 1)
    head = validate(Section("a recipe", root, start, RecipeModel, noun="key"), faults)
    plugins, complete = load_plugins(root.get("plugins"), around, faults)
    model = read_model(root.entries.get("model"), around, faults)
    data = read_data(root.entries.get("data"), around, faults)
    stages = root.get("stages")
    checked: list[Checked] = []
    if isinstance(stages, ListNode):
        checked = check_stages(stages, around.here, faults, complete=complete, start=_first_traits(model, around))
    if faults.errors or head is None or model is None or data is None:
        raise RecipeError([*faults.errors, *faults.warnings])
    assert isinstance(head, RecipeModel)
    return _recipe(source, root, head, (model, data), checked, plugins, faults, sets, around)


def _first_traits(model: Options | None, around: Surround) -> frozenset[str]:
    """What the first stage gets: a fresh model, or what the artifact under ``weights`` was made into."""
    from mcomp.models.artifact_log import surgery_of

    weights = getattr(model, "weights", None)
    return traits_after(surgery_of(around.base_dir / weights) if weights else ())


def _recipe(
    source: Source,
    root: MapNode,
    head: RecipeModel,
    origin: tuple[Options, Options],
    checked: Sequence[Checked],
    plugins: list[Path],
    faults: Faults,
    sets: Sequence[str],
    around: Surround,
) -> Recipe:
    from mcomp.models.spec import ModelSpec

    model, data = origin
    metadata: Any = root.get("metadata")
    return Recipe(
        path=source.name,
        name=head.name if "name" in root.entries else default_name(source.name),
        version=head.version,
        seed=head.seed,
        device=head.device,
        precision=head.precision,
        model=ModelSpec.of(model),
        model_options=model,
        data=data,
        stages=[_stage(one) for one in checked],
        plugins=plugins,
        metadata=(None if metadata is None else plain(metadata)) or {},
        warnings=faults.warnings,
        base_dir=around.base_dir,
        trust=around.trust,
        sets=tuple(sets),
        text=source.text,
    )


def _stage(one: Checked) -> RecipeStage:
    entry = one.entry
    assert one.cls is not None
    assert entry.uses is not None
    return RecipeStage(
        id=entry.id,
        uses=entry.uses,
        cls=one.cls,
        options=one.options,
        gates=one.gates,
        seed=one.seed,
        cache=one.cache,
        mark=entry.mark,
        surroundings=one.around,
    )


def default_name(source: str) -> str:
    """A run's name from the recipe's file name."""
    stem = re.sub(r"[^A-Za-z0-9_.-]+", "_", shown(Path(source).stem, 64)).lstrip("_.-")
    return stem[:64] or "recipe"
