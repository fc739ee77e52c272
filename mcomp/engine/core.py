"""The engine: a store and the two things done with it, ``plan`` and ``apply``."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path

from mcomp.engine import display
from mcomp.engine.events import Listener
from mcomp.engine.keys import CODE_CACHE, KeyMaker, root_of
from mcomp.engine.planning import Plan, make_plan, share
from mcomp.engine.results import RunResult, StageOutcome, SweepResult
from mcomp.engine.shelf import Shelf
from mcomp.engine.signals import StopFlag, stop_on_signals
from mcomp.errors import InterruptedRun, McompError, UsageError
from mcomp.recipe import Recipe
from mcomp.store import Store

STORE_VARIABLE = "MCOMP_STORE"
DEFAULT_STORE = ".mcomp"

Keyring = Callable[[Recipe], KeyMaker]


class Engine:
    """Plans and runs recipes against one store.

    Args:
        store: a folder or a :class:`~mcomp.store.Store`; by default ``$MCOMP_STORE`` or ``.mcomp`` here.
        listeners: called with every event of a run; one that raises is dropped with a notice.
        progress: True to show runs while they go on, False not to; None shows them in notebooks only.
        strict_code: key mcomp's own code by its digest even in a release.

    Example::

        from mcomp import Engine, Recipe
        result = Engine().apply(Recipe.load("recipes/nin_gc_prune_quant.yaml"))
        result["trt_int8"].metrics["top1"]
    """

    def __init__(
        self,
        store: Store | Path | str | None = None,
        *,
        listeners: Sequence[Listener] = (),
        progress: bool | None = None,
        strict_code: bool = False,
    ) -> None:
        if store is None:
            store = os.environ.get(STORE_VARIABLE) or DEFAULT_STORE
        self.store = store if isinstance(store, Store) else Store(Path(store))
        self.listeners = tuple(listeners)
        self.progress = progress
        self.strict_code = strict_code

    def plan(self, recipe: Recipe | Path | str) -> Plan:
        """What :meth:`apply` would do now, without torch. Nothing is run, and no store is made.

        In a store that exists it keeps digests of code and data, notes that what it looked at was used, and sets
        aside the damaged records that it meets.

        Raises:
            UsageError: MC270, the recipe is a sweep; MC278, it is no recipe.
            PreflightError: the data or a checkpoint is missing or unusable.
        """
        recipe = _loaded(recipe)
        _refuse_sweep(recipe, "Engine.plans")
        with closing(self.store):
            return make_plan(recipe, self.store, self.keys(recipe))

    def plans(self, recipe: Recipe | Path | str, keys_of: Keyring | None = None) -> list[Plan]:
        """One plan for each run: of a recipe with a sweep one per point, in order, else the recipe's own.

        A stage that an earlier run of the sweep will have made says so, and which.

        Args:
            recipe: as for :meth:`apply`.
            keys_of: from :meth:`keyring`, where the caller asks it for keys too.
        """
        recipe, keys_of = _loaded(recipe), keys_of or self.keyring()
        with closing(self.store):
            return share([make_plan(variant, self.store, keys_of(variant)) for variant in recipe.variants or (recipe,)])

    def apply(self, recipe: Recipe | Path | str, *, wait: bool = True) -> RunResult:
        """Run every stage that is not cached, in order.

        The same call after an interruption goes on from the last snapshot. A failed stage or gate is
        reported in the result, not raised.

        Args:
            recipe: a recipe, or the path of its file, which is loaded without trust in code of its own.
            wait: wait for a key that another process is computing; False refuses at once.

        Raises:
            UsageError: MC270, the recipe is a sweep; MC278, it is no recipe.
            RecipeError: the file is no valid recipe.
            PreflightError: nothing was run, because it could not have succeeded.
            StoreError: the store cannot be used.
            InterruptedRun: a signal came before anything was run.
        """
        recipe = _loaded(recipe)
        _refuse_sweep(recipe, "Engine.sweep")
        with closing(self.store), stop_on_signals() as stop, display.listeners(self.progress) as shown:
            return self._run(recipe, _Means(self.keys, Shelf(), (*self.listeners, *shown), stop, wait))

    def sweep(self, recipe: Recipe | Path | str, *, wait: bool = True) -> SweepResult:
        """Run every point of the recipe's ``sweep``, in order; a recipe without one is a sweep of one run.

        What two points have in common is computed once. A point that fails or is refused does not stop the
        others; an interruption does, and the same call goes on.

        Args:
            recipe: as for :meth:`apply`.
            wait: as for :meth:`apply`.
        """
        recipe = _loaded(recipe)
        points = recipe.variants or (recipe,)
        result = SweepResult(recipe.name, [], len(points))
        with closing(self.store), stop_on_signals() as stop, display.listeners(self.progress) as shown:
            means = _Means(self.keyring(), Shelf(), (*self.listeners, *shown), stop, wait)
            try:
                for point in points:
                    stop.check()
                    result.runs.append(self._attempt(point, means))
                    if result.runs[-1].status == "interrupted":
                        raise InterruptedRun(result.runs[-1].exit_code - 128)
            except InterruptedRun as error:
                result.stopped_by = error.signal_number
        return result

    def _attempt(self, point: Recipe, means: _Means) -> RunResult:
        """One point of a sweep; where it cannot even start, the result says why."""
        try:
            return self._run(point, means)
        except InterruptedRun:
            raise
        except McompError as error:
            stages = [
                StageOutcome(one.id, one.uses, "skipped", source=one.source, ending="not run") for one in point.stages
            ]
            words, sweep = error.as_dict() | {"text": str(error)}, dict(point.sweep_values)
            return RunResult("", point.name, "refused", error.exit_code, 0.0, stages, words, sweep=sweep)

    def _run(self, recipe: Recipe, means: _Means) -> RunResult:
        from mcomp.engine.executor import Execution

        with means.stop.at_once():
            keys = means.keys_of(recipe)
            plan = make_plan(recipe, self.store, keys)
        return Execution(
            recipe, self.store, keys, plan, means.listeners, shelf=means.shelf, stop=means.stop, wait=means.wait
        ).run()

    def keyring(self) -> Keyring:
        """:meth:`keys` for the points of one sweep: what model, data and device decide is found out once."""
        made: dict[str, KeyMaker] = {}

        def keys_of(point: Recipe) -> KeyMaker:
            origin = repr((point.model_options, point.data, point.seed, point.device, point.precision))
            if origin not in made:
                made[origin] = self.keys(point)
            return replace(made[origin], recipe=point)

        return keys_of

    def keys(self, recipe: Recipe) -> KeyMaker:
        """What makes the keys of a recipe's stages against this store.

        Raises:
            PreflightError: the data or a checkpoint is missing or unusable.
        """
        cache = self.cache_dir()
        code_cache = cache / CODE_CACHE if cache is not None else None
        root = root_of(recipe, cache_dir=cache, code_cache=code_cache, strict_code=self.strict_code)
        return KeyMaker(recipe, root, code_cache, strict_code=self.strict_code)

    def cache_dir(self) -> Path | None:
        """Where fingerprints and decoded images are kept; None until the store exists and may be written."""
        folder = self.store.cache
        return folder if folder is not None and os.access(self.store.root, os.W_OK) else None


@dataclass(frozen=True)
class _Means:
    """What the runs of one call have in common."""

    keys_of: Keyring
    shelf: Shelf
    listeners: tuple[Listener, ...]
    stop: StopFlag
    wait: bool


def _loaded(recipe: object) -> Recipe:
    """A recipe as it is, or from the file that a path names."""
    if isinstance(recipe, Recipe):
        return recipe
    if isinstance(recipe, str | Path):
        return Recipe.load(Path(recipe))
    raise UsageError(
        f"a recipe is wanted, got {type(recipe).__name__}",
        code="MC278",
        hint='load one with `Recipe.load("my.yaml")`, or give the path of its file',
    )


def _refuse_sweep(recipe: Recipe, instead: str) -> None:
    if recipe.variants:
        raise UsageError(
            f"`{recipe.name}` is a sweep of {len(recipe.variants)} runs, and one was asked for",
            code="MC270",
            hint=f"use `{instead}`, which takes them all, or one of `recipe.variants`",
        )
