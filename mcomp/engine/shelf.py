"""What the runs of one process share, so that a sweep decodes its images once. No torch at import."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from mcomp.store.digest import sha256_json

if TYPE_CHECKING:
    from pathlib import Path

    from mcomp.data import Data
    from mcomp.recipe import Recipe


@dataclass
class Shelf:
    """Decoded data, and the pairs of model and data that were seen to fit.

    One data set at a time: two of them need not fit into memory together.
    """

    _data: tuple[str, Data] | None = None
    _fitting: set[str] = field(default_factory=set)

    def data(self, recipe: Recipe, cache_dir: Path | None) -> Data:
        """The recipe's data, loaded unless the last one asked for was the same."""
        from mcomp.data import load

        wanted = _data_key(recipe)
        if self._data is None or self._data[0] != wanted:
            self._data = None  # let go of the old before the new is decoded
            found = load(recipe.data, base_dir=recipe.base_dir, trust=recipe.trust, cache_dir=cache_dir)
            self._data = (wanted, found)
        return self._data[1]

    def fits(self, recipe: Recipe) -> bool:
        """Whether this model took this data before."""
        return _pair_key(recipe) in self._fitting

    def remember_fit(self, recipe: Recipe) -> None:
        """This model takes this data."""
        self._fitting.add(_pair_key(recipe))


def _data_key(recipe: Recipe) -> str:
    return sha256_json(_data_part(recipe))


def _pair_key(recipe: Recipe) -> str:
    return sha256_json({**_data_part(recipe), "model": recipe.model.model_dump(mode="json"), "seed": recipe.seed})


def _data_part(recipe: Recipe) -> dict[str, Any]:
    return {"data": recipe.data.model_dump(mode="json"), "base": str(recipe.base_dir), "trust": recipe.trust}
