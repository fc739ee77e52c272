"""A validated recipe."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import chain, repeat
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from mcomp.errors import Diagnostic, RecipeError, visible

if TYPE_CHECKING:
    from mcomp.models.spec import ModelSpec
    from mcomp.options import Options
    from mcomp.recipe.conditions import When
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
        surroundings: the stages before and after it on its own path through the recipe.
        source: id of the stage whose model it receives; None for the recipe's own model.
        when: what decides whether it runs; True for always, False for never.
        otherwise: what happens where ``when`` does not hold: ``skip`` passes the model of ``source`` on, ``stop`` ends
            the run well, ``fail`` ends it as a failed gate does, and a stage runs in its place, under the same id.
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
    source: str | None = None
    when: When | bool = True
    otherwise: Literal["skip", "stop", "fail"] | RecipeStage = "skip"


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
        set_folders: of each, the folder in which it was given: what a path in it is relative to.
        text: the recipe as written.
        file: where it was read; None for :meth:`from_text`.
        files: every file that it was read from: its own, then what it extends.
        variants: one complete recipe per point of its ``sweep``, in order; empty without one.
        sweep_values: of a variant: what the sweep set, path to value.
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
    set_folders: tuple[Path, ...] = ()
    text: str = field(default="", repr=False)
    file: Path | None = None
    files: tuple[Path, ...] = ()
    variants: tuple[Recipe, ...] = field(default=(), repr=False)
    sweep_values: dict[str, Any] = field(default_factory=dict)

    def __repr__(self) -> str:
        runs = f", {len(self.variants)} runs" if self.variants else ""
        return visible(f"<Recipe {self.name}: {' > '.join(stage.id for stage in self.stages)}{runs}>")

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
        from mcomp.recipe.sets import GivenSet

        faults = Faults()
        file = Path(path)
        source = read(file, str(path), faults)
        if source is None:
            raise RecipeError(faults.errors)
        here = Path.cwd()
        own = here / file
        given = [GivenSet(text, here) for text in sets]
        return assemble(source, faults, sets=given, around=Surround(own.parent, here, trust), file=own)

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
        return cls._from_text(text, sets, trust, name=name, base_dir=base_dir)

    @classmethod
    def _from_text(
        cls,
        text: str,
        sets: Sequence[str],
        trust: bool,
        *,
        name: str,
        base_dir: Path | None,
        file: Path | None = None,
        folders: Sequence[Path] = (),
        values: dict[str, Any] | None = None,
    ) -> Recipe:
        """``folders``: of the first of ``sets``, where they were given; the rest is given here."""
        from mcomp.recipe.assemble import assemble
        from mcomp.recipe.diagnostics import Faults
        from mcomp.recipe.reading import from_memory
        from mcomp.recipe.sections import Surround
        from mcomp.recipe.sets import GivenSet

        faults = Faults()
        source = from_memory(text, name, faults)
        if source is None:
            raise RecipeError(faults.errors)
        here = Path.cwd()
        around = Surround(here / (base_dir or here), here, trust)
        given = [GivenSet(text, folder) for text, folder in zip(sets, chain(folders, repeat(here)), strict=False)]
        return assemble(source, faults, sets=given, around=around, file=file, values=values)

    def with_set(self, *texts: str) -> Recipe:
        """The same recipe with further values changed, e.g. ``recipe.with_set("vars.ratio=0.5")``.

        The files that it extends are read again. Of a sweep's variant this is the same run with further values
        changed.

        Raises:
            RecipeError: the recipe is not valid with them.
            UsageError: they change the sweep so that this variant is no run of it any more.
        """
        return self._from_text(
            self.text,
            [*self.sets, *texts],
            self.trust,
            name=self.path,
            base_dir=self.base_dir,
            file=self.file,
            folders=self.set_folders,
            values=self.sweep_values or None,
        )

    def lock(self) -> str:
        """The recipe with every default, variable, base and path written out, as YAML that loads to the same.

        Raises:
            UsageError: it is a sweep, which is as many recipes; each of its ``variants`` has a lock.
        """
        from mcomp.recipe.lock import lock_text

        return lock_text(self)
