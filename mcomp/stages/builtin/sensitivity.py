"""What each layer alone costs, at few bits and with some of its channels gone."""

from __future__ import annotations

import csv
import json
import time
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import AfterValidator, Field, model_validator

from mcomp.errors import InterruptedRun
from mcomp.stages.base import Finding, Stage, StageContext, StageOptions, StageResult, Traits
from mcomp.stages.forecast import CONVERT_SECONDS, PRUNE_SECONDS, Forecast, Work
from mcomp.stages.layer_names import unmatched
from mcomp.stages.registry import register

if TYPE_CHECKING:
    from pathlib import Path

    from torch import nn

    from mcomp.pruning.repeated import RepeatedPruning
    from mcomp.search.layer_losses import Samples
    from mcomp.search.sensitivity_map import Cell, SensitivityMap

#: Seconds between two snapshots; one is also kept when stopping.
SAVE_EVERY = 2.0

#: Images of a usual batch, by which the time is forecast.
_BATCH = 64

#: Images of one forward pass of those that count.
_EVALUATED = 256

_WHAT = {"w_bits": "weights", "a_bits": "inputs", "keep": "channels"}


def _gentlest_first(values: list[Any]) -> list[Any]:
    return sorted(set(values), reverse=True)


Bits = Annotated[list[Annotated[int, Field(ge=2, le=16)]], AfterValidator(_gentlest_first)]
Shares = Annotated[list[Annotated[float, Field(gt=0, lt=1)]], AfterValidator(_gentlest_first)]


@register
class Sensitivity(Stage):
    """Measure how the loss rises as one layer alone has few bits or loses channels; hand the model on unchanged.

    The map goes with the model: a later `search` starts from it, and the report draws it.
    """

    name, version = "sensitivity", 1
    traits = Traits(
        requires={"float", "bn"},
        metrics={"top1", "loss", "most_sensitive", "most_sensitive_rise", "measured"},
    )

    class Options(StageOptions):
        """What is tried, and on how many images."""

        w_bits: Bits = Field([8, 4, 2], description="bits that each layer's weight alone is tried at; [] for none")
        a_bits: Bits = Field([8, 4, 2], description="bits that each layer's input alone is tried at; [] for none")
        keep: Shares = Field(
            [0.75, 0.5, 0.25],
            description="shares of its channels that each group of coupled layers is cut to; [] for none",
        )
        images: int = Field(512, ge=1, description="validation images that loss and top-1 are measured on")
        norm_batches: int = Field(
            4, ge=1, description="training batches that batch norm statistics are measured on for each network"
        )
        regular: int = Field(1, ge=1, description="every width that is cut is a multiple of this")
        importance: Literal["bn_gamma", "l1", "l2", "fpgm", "lamp", "random"] = Field(
            "l1", description="which channels go first, as for `prune`"
        )
        ignore: list[str] = Field([], description="names or patterns (`features.0.*`) of layers not to measure")

        @model_validator(mode="after")
        def _something(self) -> Sensitivity.Options:
            if not self.w_bits and not self.a_bits and not self.keep:
                raise ValueError("nothing is to be measured; give `w_bits`, `a_bits` or `keep` values")
            return self

    @classmethod
    def preflight(cls, model: nn.Module, options: Any) -> list[Finding]:
        """Patterns that name no layer."""
        return unmatched(model, "ignore", options.ignore, by_weight=True)

    @classmethod
    def forecast(cls, incoming: Forecast, options: Any) -> Forecast:
        """The model itself."""
        return incoming

    @classmethod
    def work(cls, options: Any) -> Work:
        """Images forward for every layer and value, a conversion for each number of bits, and the test images once."""
        bits, shares = len(options.w_bits) + len(options.a_bits), len(options.keep)
        each = options.images + options.norm_batches * _BATCH
        fixed = CONVERT_SECONDS * bits + PRUNE_SECONDS * bool(shares)
        return Work(layer_images=each * (bits + shares), fixed_seconds=fixed)

    def run(self, ctx: StageContext, options: Any) -> StageResult:
        """Measure ``ctx.model`` layer by layer, from where an interrupted run stopped."""
        from mcomp.search.layer_losses import Values, measure_sensitivity
        from mcomp.search.recorded import record_sensitivity

        ctx.report("status", text="measuring each layer alone")
        found = measure_sensitivity(
            ctx.model,
            ctx.example_inputs,
            _samples(ctx, options),
            Values(options.w_bits, options.a_bits, options.keep),
            pruning=_pruning(ctx, options),
            ignore=options.ignore,
            begun=_begun(ctx),
            progress=_Progress(ctx),
        )
        record_sensitivity(ctx.model, found)
        worst = found.worst
        assert worst is not None  # a map has rows
        return StageResult(
            model=ctx.model,
            metrics={
                **ctx.evaluate(),
                "most_sensitive": f"{worst.kind} {worst.value:g} of {worst.layer}",
                "most_sensitive_rise": worst.loss_rise,
                "measured": len(found.rows),
            },
            files=_files(found, ctx.work_dir),
            notes=_notes(found),
            details={"sensitivity_map": found.as_dict()},
        )


class _Progress:
    """Tells of each measurement, keeps snapshots, and stops where a signal asks for it."""

    def __init__(self, ctx: StageContext) -> None:
        self.ctx = ctx
        self.saved = self.started = time.monotonic()
        self.seen = 0

    def __call__(self, found: SensitivityMap, cell: Cell, done: int, total: int) -> None:
        now = time.monotonic()
        self.seen += 1
        left = (now - self.started) / self.seen * (total - done)
        self.ctx.report("step", step=done, steps=total, text=f"{cell[0]} {cell[2]:g} of {cell[1]}", eta_s=left)
        signal = self.ctx.should_stop()
        if signal or now - self.saved >= SAVE_EVERY:
            self.ctx.save({"map": found.as_dict(), "step": done, "steps": total})
            self.saved = now
        if signal:
            raise InterruptedRun(signal)


def _begun(ctx: StageContext) -> SensitivityMap | None:
    from mcomp.search.sensitivity_map import SensitivityMap

    snapshot = ctx.restore()
    return None if snapshot is None else SensitivityMap.from_dict(snapshot["map"])


def _samples(ctx: StageContext, options: Any) -> Samples:
    """Training images for statistics, validation images for the loss; the test images are for final figures."""
    import torch

    from mcomp.search.layer_losses import Samples
    from mcomp.stages.searching.sample import judging_sample

    drawn = judging_sample(ctx.require_data(), norm_batches=options.norm_batches, images=options.images, seed=ctx.seed)
    images, labels = (torch.split(each.to(ctx.device), _EVALUATED) for each in (drawn.images, drawn.labels))
    return Samples(
        [inputs.to(ctx.device) for inputs in drawn.batches], list(zip(images, labels, strict=True)), ctx.device
    )


def _pruning(ctx: StageContext, options: Any) -> RepeatedPruning | None:
    from mcomp.pruning.repeated import RepeatedPruning

    if not options.keep:
        return None
    return RepeatedPruning(
        ctx.model,
        ctx.example_inputs,
        regular=options.regular,
        importance=options.importance,
        ignore=options.ignore,
        seed=ctx.seed,
    )


def _files(found: SensitivityMap, folder: Path) -> dict[str, Path]:
    table, whole = folder / "sensitivity.csv", folder / "sensitivity.json"
    with table.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["kind", "layer", "value", "loss_rise", "top1_drop"])
        writer.writerows([row.kind, row.layer, row.value, row.loss_rise, row.top1_drop] for row in found.rows)
    whole.write_text(json.dumps(found.as_dict(), indent=1) + "\n", encoding="utf-8")
    return {table.name: table, whole.name: whole}


def _notes(found: SensitivityMap) -> list[str]:
    """Of each kind the layer that minds most."""
    notes = []
    for kind, what in _WHAT.items():
        rows = [row for row in found.rows if row.kind == kind]
        if rows:
            worst = max(rows, key=lambda row: row.loss_rise)
            notes.append(
                f"{what}: `{worst.layer}` minds most, {worst.loss_rise:+.3g} of loss and "
                f"{0.0 - worst.top1_drop:+.2f} points at `{kind}: {worst.value:g}`"
            )
    return notes
