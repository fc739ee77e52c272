"""A validated recipe."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mcomp.errors import Diagnostic, RecipeError

if TYPE_CHECKING:
    from mcomp.models.spec import ModelSpec
    from mcomp.options import Options
    from mcomp.recipe.gates import Gate
    from mcomp.recipe.tree import Mark
    from mcomp.stages.base import Stage, Surroundings


@dataclass(frozen=True)
class RecipeStage:
    """One stage of a recipe.

    Attributes:
        id: unique in the recipe; the stage's name, ``name_2`` … where none was given.
        uses: the stage's name.
        cls: its class.
        options: validated, and resolved against the recipe's other stages.
        gates: limits on its figures.
        seed: its own seed, or None to derive one from the recipe's.
        cache: False to run it every time.
        mark: where the recipe names it.
        surroundings: the stages before and after it.
    """

    id: str
    uses: str
    cls: type[Stage]
    options: Any
    gates: list[Gate]
    seed: int | None
    cache: bool
    mark: Mark
    surroundings: Surroundings


@dataclass(frozen=True)
class Recipe:
    """A recipe in which everything was checked that can be checked without running it.

    Attributes:
        path: as given by the person; ``<text>`` for :meth:`from_text`.
        name: of the run; the file's name where the recipe has none.
        version: of the recipe format.
        seed: that every stage's seed is derived from.
        device: as written: ``auto``, ``cpu``, ``cuda`` or ``cuda:n``.
        precision: as written: ``auto``, ``fp32`` or ``bf16``.
        model: what to build.
        model_options: the validated flat keys under ``model:``.
        data: the validated flat keys under ``data:``.
        stages: in order.
        plugins: files that registered stages.
        metadata: kept and never read.
        warnings: what does not stop it.
        base_dir: what its paths are relative to.
        trust: whether user code may run.
        sets: the ``--set`` texts that were applied.
        text: the recipe as written.
    """

    path: str
    name: str
    version: int
    seed: int
    device: str
    precision: str
    model: ModelSpec
    model_options: Options
    data: Options
    stages: list[RecipeStage]
    plugins: list[Path]
    metadata: dict[str, Any]
    warnings: list[Diagnostic]
    base_dir: Path
    trust: bool = False
    sets: tuple[str, ...] = ()
    text: str = field(default="", repr=False)

    @classmethod
    def load(cls, path: str | Path, sets: Sequence[str] = (), trust: bool = False) -> Recipe:
        """Read and validate a recipe file.

        Args:
            path: the file; messages show it as given here.
            sets: ``path=value`` texts that change single values, in order.
            trust: allow the Python files that the recipe names to run.

        Raises:
            RecipeError: with every fault of the recipe, each with its position.
        """
        from mcomp.recipe.assemble import assemble
        from mcomp.recipe.diagnostics import Faults
        from mcomp.recipe.reading import read
        from mcomp.recipe.sections import Surround

        faults = Faults()
        file = Path(path)
        source = read(file, str(path), faults)
        if source is None:
            raise RecipeError(faults.errors)
        here = Path.cwd()
        return assemble(source, faults, sets=sets, around=Surround((here / file).parent, here, trust))

    @classmethod
    def from_text(
        cls,
        text: str,
        sets: Sequence[str] = (),
        trust: bool = False,
        *,
        name: str = "<text>",
        base_dir: Path | None = None,
    ) -> Recipe:
        """Validate a recipe that is already in memory.

        Args:
            text: YAML.
            sets: as for :meth:`load`.
            trust: as for :meth:`load`.
            name: what messages call it.
            base_dir: what its paths are relative to; the current folder by default.

        Raises:
            RecipeError: with every fault of the recipe, each with its position.
        """
        from mcomp.recipe.assemble import assemble
        from mcomp.recipe.diagnostics import Faults
        from mcomp.recipe.reading import decode
        from mcomp.recipe.sections import Surround

        faults = Faults()
        source = decode(text.encode("utf-8", "surrogatepass"), name, faults)
        if source is None:
            raise RecipeError(faults.errors)
        here = Path.cwd()
        return assemble(source, faults, sets=sets, around=Surround(here / (base_dir or here), here, trust))

    def with_set(self, *texts: str) -> Recipe:
        """The same recipe with further values changed, e.g. ``recipe.with_set("vars.ratio=0.5")``.

        Raises:
            RecipeError: the recipe is not valid with them.
        """
        return type(self).from_text(self.text, [*self.sets, *texts], self.trust, name=self.path, base_dir=self.base_dir)

    def lock(self) -> str:
        """The recipe with every default, variable and path written out, as YAML that loads to the same."""
        from mcomp.recipe.lock import lock_text

        return lock_text(self)
