"""What a stage is: options, traits, and ``run``. Importable without torch."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from mcomp.errors import StageError
from mcomp.options import Options

if TYPE_CHECKING:
    from torch import Tensor, nn

    from mcomp.data import Data
    from mcomp.stages.forecast import Forecast, Work

Metrics = dict[str, float | int | str]

#: Measured by the engine for every stage that hands on a model, so any gate may name them.
COMMON_METRICS = frozenset({"params", "macs", "bytes", "latency_ms"})


class StageOptions(Options):
    """Base of every stage's options. ``Field(description=…)`` is the help text."""


@dataclass(frozen=True)
class Traits:
    """What a stage needs of the model, adds to it and takes away, checked before anything runs.

    A fresh model has the traits ``float`` and ``bn`` (batch norms not folded yet).

    Attributes:
        requires: traits the incoming model must have.
        conflicts: traits it must not have.
        provides: traits added.
        destroys: traits removed.
        metrics: names of the metrics that ``run`` reports, beside :data:`COMMON_METRICS`.
        needs_data: False for a stage that never looks at ``ctx.data``; its ``ctx.example_inputs`` are then made-up
            values of the model's input shape, not samples, and its key does not hold the data.
    """

    requires: frozenset[str] | set[str] = frozenset()
    conflicts: frozenset[str] | set[str] = frozenset()
    provides: frozenset[str] | set[str] = frozenset()
    destroys: frozenset[str] | set[str] = frozenset()
    metrics: frozenset[str] | set[str] = frozenset()
    needs_data: bool = True


@dataclass(frozen=True)
class Surroundings:
    """Where a stage stands in its recipe: what static checks and option defaults may depend on."""

    before: tuple[str, ...] = ()
    """Names (not ids) of the stages upstream, in order."""
    after: tuple[str, ...] = ()
    """Names of the stages downstream, in order."""
    have: frozenset[str] = frozenset()
    """Traits of the incoming model."""


@dataclass(frozen=True)
class Finding:
    """A static fault or warning that a stage found in its own options.

    ``option`` is the path below the stage's options that it points at, e.g. ``("calibration", "samples")``.
    """

    message: str
    option: tuple[str | int, ...] = ()
    hint: str = ""
    code: str = "MC120"
    severity: str = "error"


@dataclass(repr=False)
class StageResult:
    """What a stage hands back.

    Attributes:
        model: the model for the next stage.
        metrics: figures in the project's units (top1 in percent, bytes, milliseconds …).
        files: name to path of files worth keeping, written under ``ctx.work_dir``.
        notes: sentences for the person who reads the table.
        details: JSON-able tables (per layer, per epoch) for the report.
    """

    model: nn.Module
    metrics: Metrics = field(default_factory=dict)
    files: dict[str, Path] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    details: dict[str, Any] = field(default_factory=dict)

    def __repr__(self) -> str:
        shown = [type(self.model).__name__, *(f"{name} {value}" for name, value in self.metrics.items())]
        return f"<StageResult {', '.join([*shown, *self.files])}>"


def _ignore(*_args: Any, **_fields: Any) -> None:
    """Drop a progress report."""


@dataclass
class StageContext:
    """What a running stage sees of the world.

    Attributes:
        model: the incoming model, on the CPU, in eval mode; the stage may change it in place.
        example_inputs: a batch of two inputs that the model accepts (CPU, float32): samples, or made-up values for
            a stage that needs no data.
        data: train, val and test splits; None when a plain function call gave none.
        device: ``"cpu"``, ``"cuda"`` or ``"cuda:n"``, already resolved.
        precision: ``"fp32"`` or ``"bf16"``, already resolved.
        seed: derived from the recipe's seed and the stage's place.
        work_dir: an existing folder; files named in the result are taken from here.
        stage_id: the id in the recipe.
        report: progress, ``report(kind, **fields)``; kinds ``step`` (``step``, ``steps``, a ``unit`` in words,
            ``eta_s``, and ``epoch`` and ``epochs`` where there are any), ``epoch``, ``status``; the field names
            ``event``, ``time`` and ``stage`` are taken.
        log: a line for the person who watches.
        save: keep a snapshot (a dict of tensors, numbers, strings, lists, dicts), atomically.
        restore: the last snapshot of this very action, or None.
        should_stop: True once a signal asked to stop: save, then raise ``InterruptedRun``.
        base_dir: what the paths of a person's own files are relative to; the current folder without it.
        earlier: id of an earlier stage to a function that loads its model, for the ids that :meth:`Stage.reads` names.
    """

    model: nn.Module
    example_inputs: tuple[Tensor, ...]
    data: Data | None
    work_dir: Path
    device: str = "cpu"
    precision: str = "fp32"
    seed: int = 0
    stage_id: str = ""
    report: Callable[..., None] = _ignore
    log: Callable[[str], None] = _ignore
    save: Callable[[dict[str, Any]], None] = _ignore
    restore: Callable[[], dict[str, Any] | None] = _ignore
    should_stop: Callable[[], int] = lambda: 0
    earlier: Mapping[str, Callable[[], nn.Module]] = field(default_factory=dict)
    base_dir: Path | None = None

    def require_data(self) -> Data:
        """The data, or a clear refusal where a plain call gave none.

        Raises:
            StageError: there is no data.
        """
        if self.data is None:
            raise StageError(
                f"`{self.stage_id}` needs data",
                code="MC401",
                hint="pass `data=`, e.g. `mcomp.data.load(name='digits')`",
            )
        return self.data

    def evaluate(self, model: nn.Module | None = None, split: str = "test") -> Metrics:
        """``{"top1": percent, "loss"}`` of ``model`` (default ``self.model``) in float32; ``{}`` without data."""
        from mcomp.metrics import evaluate

        if self.data is None:
            return {}
        found = evaluate(self.model if model is None else model, getattr(self.data, split), device=self.device)
        return {"top1": found.top1, "loss": found.loss}


class Stage(ABC):
    """One step of a recipe. Subclass, set ``name``, ``version``, ``Options``, ``traits``; write ``run``.

    ``version`` goes up whenever the stage would compute something else from the same input.
    """

    name: ClassVar[str]
    version: ClassVar[int] = 1
    traits: ClassVar[Traits] = Traits()
    Options: ClassVar[type[StageOptions]] = StageOptions

    @abstractmethod
    def run(self, ctx: StageContext, options: Any) -> StageResult:
        """Do the work. ``options`` is a validated instance of this stage's ``Options``."""

    @classmethod
    def resolve(cls, options: Any, around: Surroundings) -> Any:
        """Replace ``auto`` values by what the recipe's other stages imply, before the action key is made."""
        return options

    @classmethod
    def check(cls, options: Any, around: Surroundings) -> list[Finding]:
        """Static faults beyond what the schema and the traits say."""
        return []

    @classmethod
    def preflight(cls, model: nn.Module, options: Any) -> list[Finding]:
        """Faults that are certain once the recipe's own model is there, before any stage has run: a layer's name, say.

        Args:
            model: the recipe's own, not to be changed; what ``run`` gets has layers of the same names.
            options: a validated instance of this stage's ``Options``.
        """
        return []

    @classmethod
    def reads(cls, options: Any) -> list[str]:
        """Ids of earlier stages whose models ``run`` asks for, e.g. a teacher's; they enter the action key."""
        return []

    @classmethod
    def key_parts(cls, options: Any) -> dict[str, Any]:
        """What the outcome depends on beside options and input, e.g. the TensorRT version found. No torch."""
        return {}

    @classmethod
    def forecast(cls, incoming: Forecast, options: Any) -> Forecast:
        """What the stage will hand on, told before it runs; :meth:`Forecast.unknown` unless a stage knows better.

        A stage that changes no structure returns ``incoming.trained()`` where it changes weights, else ``incoming``;
        one that rebuilds the model returns ``incoming.through(rebuild)``.

        Args:
            incoming: what is known of the model that ``run`` will get.
            options: a validated instance of this stage's ``Options``.
        """
        from mcomp.stages.forecast import Forecast

        return Forecast.unknown()

    @classmethod
    def work(cls, options: Any) -> Work | None:
        """What ``run`` spends its time on, so that it can be forecast; None where nobody can say."""
        return None

    @classmethod
    def missing(cls, options: Any) -> str:
        """The runtime that ``run`` cannot do without and that is not here, in words; empty where all is there."""
        return ""

    @classmethod
    def summary(cls) -> str:
        """The first line of the docstring."""
        return (cls.__doc__ or "").strip().partition("\n")[0]
