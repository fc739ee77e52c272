"""Network slimming (Liu et al., arXiv:1708.06519): train while batch-norm scales are pulled to zero."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field

from mcomp.stages.base import Finding, Stage, StageContext, StageOptions, StageResult, Surroundings, Traits
from mcomp.stages.builtin.train import TRAINING_METRICS, idle_milestones, train
from mcomp.stages.forecast import Forecast, Work
from mcomp.stages.registry import register
from mcomp.training.settings import TrainSettings

if TYPE_CHECKING:
    from mcomp.training.penalty import Penalty


@register
class SparseTrain(Stage):
    """Train while pulling batch-norm scales to zero, so that pruning finds channels to spare."""

    name, version = "sparse_train", 1
    traits = Traits(
        requires={"float", "bn"}, provides={"sparse"}, metrics=TRAINING_METRICS | {"gamma_small", "gamma_median"}
    )

    class Options(TrainSettings, StageOptions):
        """Those of :class:`mcomp.training.TrainSettings`, and the pull."""

        penalty: float = Field(1e-3, gt=0, description="strength of the pull on batch-norm scales")
        mode: Literal["decoupled", "subgradient"] = Field(
            "decoupled", description="shrink scales after each step (any optimiser), or add the pull to their gradient"
        )

    @classmethod
    def check(cls, options: Any, around: Surroundings) -> list[Finding]:
        """Warn of milestones that never come, and of a pull that the optimiser would undo."""
        found = idle_milestones(options)
        if options.mode == "subgradient" and options.optimizer != "sgd":
            found.append(
                Finding(
                    f"`{options.optimizer}` divides gradients by their size, so `mode: subgradient` loses its strength",
                    option=("mode",),
                    hint="use `mode: decoupled`, or `optimizer: sgd`",
                    severity="warning",
                )
            )
        return found

    @classmethod
    def forecast(cls, incoming: Forecast, options: Any) -> Forecast:
        """Other weights in the same structure."""
        return incoming.trained()

    @classmethod
    def work(cls, options: Any) -> Work:
        """Training under the penalty, and one pass over the test images."""

        def penalty() -> Penalty:
            from mcomp.pruning import BNPenalty

            return BNPenalty(options.penalty, mode=options.mode)

        return Work(training=options, penalty=penalty)

    def run(self, ctx: StageContext, options: Any) -> StageResult:
        """Train on ``ctx.data.train``; report accuracy on test, the median |γ| and the percentage nearly zero."""
        from mcomp.pruning import BNPenalty

        result = train(ctx, options, BNPenalty(options.penalty, mode=options.mode))
        last = result.details["history"][-1]
        result.metrics |= {"gamma_median": last["gamma_quantiles"][2], "gamma_small": last["gamma_small"]}
        if last["collapsed"]:
            layers = ", ".join(f"`{name}`" for name in last["collapsed"])
            result.notes.append(f"all scales of {layers} are nearly zero: lower `penalty` to keep them")
        return result
