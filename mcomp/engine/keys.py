"""Action keys: what a stage's outcome depends on, and nothing else. No torch.

A key is the SHA-256 of a preimage, which :meth:`KeyMaker.preimage` builds. What a person only says about a run (its
name, ids, gates, metadata), where files lie and when it happened is in none.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mcomp.engine.own_code import Code, measuring_code, stage_code
from mcomp.engine.roots import Root, keyed_options, root_of
from mcomp.store.atomic import make_folder
from mcomp.store.digest import sha256_json

if TYPE_CHECKING:
    from mcomp.recipe import Recipe
    from mcomp.recipe.model import RecipeStage

__all__ = ["CODE_CACHE", "KeyMaker", "Preimage", "Root", "key_of", "keyed_options", "root_of"]

#: Goes up when the engine's own code changes what a record means or how a stage is run.
FORMAT = 1
CODE_CACHE = "code.json"
Preimage = dict[str, Any]


def stage_seed(recipe_seed: int, uses: str, ordinal: int) -> int:
    """A 31-bit seed for the ``ordinal``-th use of a stage; names given by the person do not enter."""
    digest = hashlib.sha256(f"{recipe_seed}:{uses}:{ordinal}".encode()).digest()
    return int.from_bytes(digest[:4], "big") >> 1


def key_of(preimage: Preimage) -> str:
    """SHA-256 of the canonical JSON."""
    return sha256_json(preimage)


@dataclass
class KeyMaker:
    """Builds the preimage of each stage of one recipe.

    Args:
        recipe: the validated recipe.
        root: from :func:`root_of`.
        code_cache: file that remembers code digests by path, size and mtime; None to remember nothing.
        strict_code: key mcomp's own code by its digest even in a release.
    """

    recipe: Recipe
    root: Root
    code_cache: Path | None = None
    strict_code: bool = False
    _codes: dict[str, Code] = field(default_factory=dict)

    def preimage(self, stage: RecipeStage, upstream: str | None, artifacts: Mapping[str, str]) -> Preimage:
        """The full preimage.

        Args:
            stage: what runs.
            upstream: the incoming artifact's digest, None for the first stage.
            artifacts: digests of all earlier stages by id.
        """
        # a recipe's own model has its classes, its input and their normalisation from the data
        sees_data = stage.cls.traits.needs_data or upstream is None
        return {
            "format": FORMAT,
            "stage": stage.uses,
            "version": stage.cls.version,
            "code": self.code(stage).keyed(self.strict_code),
            "measuring": self.measuring.keyed(self.strict_code),
            "options": keyed_options(stage.options, self.recipe.base_dir),
            "upstream": {"model": self.root.model} if upstream is None else {"artifact": upstream},
            "data": self.root.data if sees_data else None,
            "seed": self.seed(stage),
            "numerics": self.root.numerics,
            "parts": stage.cls.key_parts(stage.options),
            "earlier": [artifacts.get(wanted) for wanted in stage.cls.reads(stage.options)],
        }

    def recorded(self, stage: RecipeStage, preimage: Preimage) -> dict[str, Any]:
        """Version and digests of all code behind a stage, file by file: kept beside the key, never in it.

        Returns:
            Place in the preimage, e.g. ``upstream.model.code``, to ``{"version", "digest", "files"}``.
        """
        codes = {"code": self.code(stage), "measuring": self.measuring}
        if preimage["data"] is not None:
            codes |= {f"data.{name}": code for name, code in self.root.data_codes.items()}
        if "model" in preimage["upstream"]:
            codes |= {f"upstream.model.{name}": code for name, code in self.root.model_codes.items()}
        return {place: code.recorded() for place, code in codes.items()}

    def seed(self, stage: RecipeStage) -> int:
        """The recipe's own seed for this stage, or one derived from its place."""
        if stage.seed is not None:
            return stage.seed
        ordinal = stage.surroundings.before.count(stage.uses)
        return stage_seed(self.recipe.seed, stage.uses, ordinal)

    def remember_code(self, folder: Path) -> None:
        """Keep the code digests there, where the store was only made during this run: the next start is faster."""
        if self.code_cache is None:
            self.root.reader.remember(make_folder(folder) / CODE_CACHE)

    def code(self, stage: RecipeStage) -> Code:
        """The code of a stage's class."""
        name = f"{stage.cls.__module__}.{stage.cls.__qualname__}"
        if name not in self._codes:
            self._codes[name] = stage_code(stage.cls, self.root.reader)
        return self._codes[name]

    @property
    def measuring(self) -> Code:
        """The code behind ``params``, ``macs``, ``bytes`` and ``latency_ms``, which every stage's record holds."""
        return self._codes.setdefault("", measuring_code(self.root.reader))
