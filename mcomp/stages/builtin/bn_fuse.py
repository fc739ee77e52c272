"""Batch norms into the layers beside them."""

from __future__ import annotations

from typing import Any

from pydantic import Field

from mcomp.errors import StageError
from mcomp.stages.base import Metrics, Stage, StageContext, StageOptions, StageResult, Traits
from mcomp.stages.forecast import FOLD_SECONDS, Forecast, Work
from mcomp.stages.registry import register


@register
class BNFuse(Stage):
    """Fold every batch norm into the layer beside it, and prove that nothing changed."""

    name, version = "bn_fuse", 4
    traits = Traits(
        requires={"bn"},
        provides={"fused"},
        destroys={"bn"},
        metrics={"top1", "loss", "top1_before", "max_abs_error", "folded", "sign_flips"},
    )

    class Options(StageOptions):
        tolerance: float = Field(
            1e-4,
            gt=0,
            description="largest accepted max|fused - unfused| / max|unfused|, per layer where the model is quantised",
        )

    @classmethod
    def forecast(cls, incoming: Forecast, options: Any) -> Forecast:
        """The same layers without their batch norms."""
        from mcomp.quantization.fold import fold_batch_norms

        return incoming.through(lambda model: fold_batch_norms(model, incoming.example_inputs).model)

    @classmethod
    def work(cls, options: Any) -> Work:
        """Both models on the test images."""
        return Work(evaluations=2, fixed_seconds=FOLD_SECONDS)

    def run(self, ctx: StageContext, options: Any) -> StageResult:
        """Fold a copy, compare it with the original, and measure both on test."""
        from mcomp.quantization.fold import fold_batch_norms

        fused = fold_batch_norms(ctx.model, ctx.example_inputs)
        if not fused.error <= options.tolerance:
            raise StageError(
                f"fusing changed the output by {fused.error:.1e} (allowed {options.tolerance:.1e}), "
                f"most at `{fused.worst_layer}`",
                code="MC426",
                why="a batch norm there has a variance near 0 or a mean far above its spread",
                hint="train that layer on, or raise `tolerance`",
            )
        metrics: Metrics = {"max_abs_error": fused.error, "folded": fused.count, "sign_flips": fused.sign_flips}
        before = ctx.evaluate(ctx.model)
        if before:
            metrics |= {**ctx.evaluate(fused.model), "top1_before": before["top1"]}
        notes = _left_notes(fused.left)
        if not fused.count and not notes:
            notes.append("the model has no batch norm: nothing to fold")
        if fused.rescaled:
            notes.append(f"{fused.rescaled} channels with a scale below 2**-23 were rounded to that scale")
        return StageResult(
            model=fused.model, metrics=metrics, notes=notes, details={"output_error": fused.output_error}
        )


def _left_notes(left: dict[str, str]) -> list[str]:
    """One note per reason; DenseNet alone leaves sixty batch norms for the same one."""
    names: dict[str, list[str]] = {}
    for name, why in left.items():
        names.setdefault(why, []).append(f"`{name}`")
    return [
        f"batch norm {found[0]} stays: {why}"
        if len(found) == 1
        else f"{len(found)} batch norms stay ({', '.join(found[:3])}{' …' if len(found) > 3 else ''}): {why}"
        for why, found in names.items()
    ]
