"""Network slimming (Liu et al., arXiv:1708.06519): train while batch-norm scales are pulled to zero."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field

from mcomp.stages.base import Finding, Stage, StageContext, StageOptions, StageResult, Surroundings, Traits
from mcomp.stages.builtin.train import TRAINING_METRICS, idle_milestones, train
from mcomp.stages.registry import register
from mcomp.training.settings import TrainSettings

if TYPE_CHECKING:
    from torch import nn

#: A channel counts as nearly off when its |γ| is below this share of the network's median |γ|.
SMALL = 0.1


@register
class SparseTrain(Stage):
    """Train while pulling batch-norm scales to zero, so that pruning finds channels to spare."""

    name, version = "sparse_train", 1
    traits = Traits(
        requires={"float", "bn"}, provides={"sparse"}, metrics=TRAINING_METRICS | {"gamma_small", "gamma_median"}
    )

    class Options(TrainSettings, StageOptions):
        """Those of :class:`mcomp.training.TrainSettings`, and the pull."""

        lr: float = Field(0.05, gt=0, description="peak learning rate")
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

    def run(self, ctx: StageContext, options: Any) -> StageResult:
        """Train on ``ctx.data.train``; report accuracy on test and how many scales are nearly zero."""
        from mcomp.pruning import BNPenalty

        result = train(ctx, options, BNPenalty(options.penalty, mode=options.mode))
        median, small = gamma_figures(result.model)
        result.metrics |= {"gamma_median": median, "gamma_small": small}
        return result


def gamma_figures(model: nn.Module) -> tuple[float, float]:
    """Median |γ| over all batch-norm channels, and the percentage of channels below :data:`SMALL` of it."""
    import torch
    from torch.nn.modules.batchnorm import _BatchNorm

    scales = [
        norm.weight.detach().abs().flatten() for norm in model.modules() if isinstance(norm, _BatchNorm) and norm.affine
    ]
    if not scales:
        return 0.0, 0.0
    every = torch.cat(scales)
    median = every.median().item()
    return median, 100.0 * (every <= SMALL * median).float().mean().item()
