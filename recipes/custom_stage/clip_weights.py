"""A stage of one's own: clip every weight to a multiple of its layer's standard deviation."""

from __future__ import annotations

from pydantic import Field

from mcomp.stages import Stage, StageContext, StageOptions, StageResult, Traits, register


@register
class ClipWeights(Stage):
    """Clip outlying weights, so that a per-layer INT8 scale is not set by a handful of them."""

    name, version = "clip_weights", 1
    traits = Traits(requires={"float"}, metrics={"top1", "loss", "clipped"})

    class Options(StageOptions):
        """What a recipe may write below `clip_weights:`."""

        deviations: float = Field(4.0, gt=0, description="largest weight kept, in standard deviations of its layer")

    def run(self, ctx: StageContext, options: Options) -> StageResult:
        """Clip in place and report the share of weights that moved, in percent."""
        import torch

        moved = total = 0
        with torch.no_grad():
            for parameter in ctx.model.parameters():
                if parameter.dim() < 2:
                    continue
                limit = options.deviations * parameter.std()
                moved += int((parameter.abs() > limit).sum())
                total += parameter.numel()
                parameter.clamp_(-limit, limit)
        metrics = {"clipped": 100.0 * moved / max(total, 1), **ctx.evaluate()}
        return StageResult(model=ctx.model, metrics=metrics, notes=[f"clipped {moved} of {total} weights"])
