"""From a text to a validated recipe, in the one order there is."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from mcomp.errors import Diagnostic, RecipeError
from mcomp.options import Options
from mcomp.recipe.composition import Composed, compose
from mcomp.recipe.diagnostics import Faults, shown
from mcomp.recipe.model import Recipe, RecipeStage
from mcomp.recipe.reading import identity
from mcomp.recipe.schema import RecipeModel
from mcomp.recipe.sections import Surround, load_plugins, read_data, read_model, validate
from mcomp.recipe.sets import GivenSet, apply_sets
from mcomp.recipe.stage_entries import few_enough
from mcomp.recipe.stage_validation import Checked, check_stages
from mcomp.recipe.sweep import Point, chosen, take_sweep
from mcomp.recipe.sweep_faults import tell_once
from mcomp.recipe.traits import traits_after
from mcomp.recipe.translate import Section
from mcomp.recipe.tree import ListNode, MapEntry, MapNode, Mark, Node, ScalarNode, Source, is_null, plain
from mcomp.recipe.variables import TOP_LEVEL, substitute
from mcomp.suggest import closest


def assemble(
    source: Source,
    faults: Faults,
    *,
    sets: Sequence[GivenSet],
    around: Surround,
    file: Path | None = None,
    values: Mapping[str, Any] | None = None,
) -> Recipe:
    """Load, compose, set, lay out the sweep, substitute, validate.

    Args:
        source: the recipe's text.
        faults: what reading the file found already; receives everything else.
        sets: what was given with ``--set``, in order.
        around: folders and trust.
        file: where the text was read; None for a text that is in no file.
        values: which point of the sweep is wanted alone; None for all.

    Raises:
        RecipeError: with every fault.
    """
    from mcomp.stages import registry

    with registry.of_one_recipe():
        return _assembled(source, faults, sets, around, file, values)


def _assembled(
    source: Source,
    faults: Faults,
    sets: Sequence[GivenSet],
    around: Surround,
    file: Path | None,
    values: Mapping[str, Any] | None,
) -> Recipe:
    folder = os.path.dirname(source.name)
    shown_folder = folder if around.here / folder == around.base_dir else str(around.base_dir)
    own = None if file is None else identity(file)
    composed = compose(source, around.base_dir, shown_folder, own, faults)
    if composed is None:
        raise RecipeError([*faults.errors, *faults.warnings])
    return _Assembly(source, composed, faults, sets, around, file).recipe(values)


class _Assembly:
    """One composed tree on its way to a recipe, or to the recipes of a sweep."""

    def __init__(
        self,
        source: Source,
        composed: Composed,
        faults: Faults,
        sets: Sequence[GivenSet],
        around: Surround,
        file: Path | None,
    ) -> None:
        self._source = source
        self._composed = composed
        self._faults = faults
        self._sets = tuple(sets)
        self._around = around
        self._files = (*([] if file is None else [file]), *composed.files)
        self._file = file
        self._used = composed.used
        self._plugins: dict[str, tuple[list[Path], bool, list[Diagnostic]]] = {}
        self._traits: dict[str, frozenset[str]] = {}

    def recipe(self, values: Mapping[str, Any] | None) -> Recipe:
        """The recipe; a sweep's first run, which carries all of them.

        Raises:
            RecipeError: with every fault.
        """
        root = self._composed.root
        applied = apply_sets(root, self._sets, self._faults)
        points = take_sweep(root, applied, self._faults) if self._composed.sound else None
        if not points:
            return self._single(root, sound=points is not None)
        wanted = None if values is None else chosen(points, values, self._source.name)
        variants = self._runs(root, points if wanted is None else [wanted])
        if wanted is not None:
            return variants[0]
        return replace(variants[0], sweep_values={}, variants=tuple(variants), warnings=self._faults.warnings)

    def _single(self, root: MapNode, *, sound: bool) -> Recipe:
        if not sound:
            root.entries.pop("sweep", None)
            stages = root.get("stages")
            if is_null(stages) or isinstance(stages, ListNode):  # what they would have been is not known
                start = Mark(self._source, 1, 1)
                root.entries["stages"] = MapEntry(start, ListNode([ScalarNode("", start, "")], start))
        found = self._validated(root, self._faults, sound=sound)
        if found is None or not sound:  # what made the stages unknown is an error
            raise self._refusal()
        return found

    def _runs(self, root: MapNode, points: Sequence[Point]) -> list[Recipe]:
        """One recipe per point."""
        recipes: list[Recipe] = []
        found: list[list[Diagnostic]] = []
        for point in points:
            own = Faults(self._faults.files)
            one = self._validated(point.applied(root, own), own, sound=True)
            found.append([*own.errors, *own.warnings])
            if one is not None:
                recipes.append(replace(one, sweep_values=point.plain))
        before = self._faults.warnings
        tell_once(points, found, self._faults)
        if self._faults.errors or len(recipes) < len(points):
            raise self._refusal()
        return [replace(one, warnings=[*before, *one.warnings]) for one in recipes]

    def _refusal(self) -> RecipeError:
        return RecipeError([*self._faults.errors, *self._faults.warnings])

    def _validated(self, root: MapNode, faults: Faults, *, sound: bool) -> Recipe | None:
        """The recipe of one tree, which is used up; None where it has errors."""
        substitute(root, faults, self._used)
        around = self._around
        start = Mark(self._source, 1, 1)
        head = validate(Section("a recipe", root, start, RecipeModel, noun="key"), faults)
        plugins, complete = self._loaded(root.get("plugins"), faults)
        # under a misspelled `plugins` stand the stages that would look unknown
        complete = complete and not any(
            closest(key, TOP_LEVEL) == "plugins" for key in root.entries if key != "plugins"
        )
        model = read_model(root.entries.get("model"), around, faults)
        data = read_data(root.entries.get("data"), around, faults)
        stages = root.get("stages")
        checked: list[Checked] = []
        if isinstance(stages, ListNode) and sound and few_enough(stages, stages.mark, faults):
            start_traits = self._first_traits(model)
            gone = self._composed.gone
            checked = check_stages(
                stages, around.here, around.base_dir, faults, complete=complete, start=start_traits, gone=gone
            )
        if faults.errors or head is None or model is None or data is None or not all(map(_is_whole, checked)):
            return None
        assert isinstance(head, RecipeModel)
        return self._recipe(root, head, (model, data), checked, plugins, faults)

    def _loaded(self, node: Node | None, faults: Faults) -> tuple[list[Path], bool]:
        """The plug-ins, run once however many runs a sweep has; each run hears what is wrong with them."""
        written = repr(None if node is None else plain(node))
        if written not in self._plugins:
            own = Faults()
            files, complete = load_plugins(node, self._around, own)
            self._plugins[written] = files, complete, [*own.errors, *own.warnings]
        files, complete, found = self._plugins[written]
        for one in found:
            faults.take(one)
        return files, complete

    def _first_traits(self, model: Options | None) -> frozenset[str]:
        """What the first stage gets: a fresh model, or what the artifact under ``weights`` was made into."""
        weights = getattr(model, "weights", None) or ""
        if weights not in self._traits:
            from mcomp.models.artifact_log import surgery_of

            self._traits[weights] = traits_after(surgery_of(self._around.base_dir / weights) if weights else ())
        return self._traits[weights]

    def _recipe(
        self,
        root: MapNode,
        head: RecipeModel,
        origin: tuple[Options, Options],
        checked: Sequence[Checked],
        plugins: list[Path],
        faults: Faults,
    ) -> Recipe:
        from mcomp.models.spec import ModelSpec

        model, data = origin
        metadata: Any = root.get("metadata")
        return Recipe(
            path=self._source.name,
            name=head.name if "name" in root.entries else default_name(self._source.name),
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
            base_dir=self._around.base_dir,
            trust=self._around.trust,
            sets=tuple(one.text for one in self._sets),
            set_folders=tuple(one.folder for one in self._sets),
            text=self._source.text,
            file=self._file,
            files=self._files,
        )


def _is_whole(one: Checked) -> bool:
    """True where nothing of a stage, or of what may run in its place, is unknown."""
    own = one.cls is not None and one.entry.uses is not None and one.options is not None and not one.undecided
    return own and (isinstance(one.otherwise, str) or _is_whole(one.otherwise))


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
        source=one.source,
        when=one.when,
        otherwise=one.otherwise if isinstance(one.otherwise, str) else _stage(one.otherwise),
    )


def default_name(source: str) -> str:
    """A run's name from the recipe's file name."""
    stem = re.sub(r"[^A-Za-z0-9_.-]+", "_", shown(Path(source).stem, 64)).lstrip("_.-")
    return stem[:64] or "recipe"
