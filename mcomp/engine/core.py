"""The engine: a store and the two things done with it, ``plan`` and ``apply``."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from mcomp.engine.events import Listener
from mcomp.engine.keys import CODE_CACHE, KeyMaker, Root, root_of
from mcomp.engine.planning import Plan, make_plan
from mcomp.engine.results import RunResult
from mcomp.recipe import Recipe
from mcomp.store import Store

STORE_VARIABLE = "MCOMP_STORE"
DEFAULT_STORE = ".mcomp"


class Engine:
    """Plans and runs recipes against one store.

    Args:
        store: a folder or a :class:`~mcomp.store.Store`; by default ``$MCOMP_STORE`` or ``.mcomp`` here.
        listeners: called with every event of a run.

    Example::

        from mcomp import Engine, Recipe
        result = Engine().apply(Recipe.load("recipes/nin_gc_prune_quant.yaml"))
        result["trt_int8"].metrics["top1"]
    """

    def __init__(self, store: Store | Path | str | None = None, *, listeners: Sequence[Listener] = ()) -> None:
        if store is None:
            store = os.environ.get(STORE_VARIABLE) or DEFAULT_STORE
        self.store = store if isinstance(store, Store) else Store(Path(store))
        self.listeners = tuple(listeners)

    def plan(self, recipe: Recipe) -> Plan:
        """What :meth:`apply` would do now, without torch; an existing store's caches of digests are all it writes.

        Raises:
            PreflightError: the data or a checkpoint is missing or unusable.
        """
        return make_plan(recipe, self.store, self._keys(recipe))

    def apply(self, recipe: Recipe, *, wait: bool = True) -> RunResult:
        """Run every stage that is not cached, in order.

        The same call after an interruption goes on from the last snapshot. A failed stage or gate is
        reported in the result, not raised.

        Args:
            recipe: a validated recipe.
            wait: wait for a key that another process is computing; False refuses at once.

        Raises:
            PreflightError: nothing was run, because it could not have succeeded.
            StoreError: the store cannot be used.
        """
        from mcomp.engine.executor import Execution

        keys = self._keys(recipe)
        plan = make_plan(recipe, self.store, keys)
        return Execution(recipe, self.store, keys, plan, self.listeners, wait=wait).run()

    def _keys(self, recipe: Recipe) -> KeyMaker:
        cache = self.cache_dir()
        code_cache = cache / CODE_CACHE if cache is not None else None
        root: Root = root_of(recipe, cache_dir=cache, code_cache=code_cache)
        return KeyMaker(recipe, root, code_cache)

    def cache_dir(self) -> Path | None:
        """Where fingerprints and decoded images are kept; None until the store exists."""
        root = self.store.root
        return root / "cache" if root.is_dir() and os.access(root, os.W_OK) else None
