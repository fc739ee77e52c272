"""Train while channels are pulled to zero: network slimming, group lasso, growing regularisation."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field

from mcomp.errors import StageError
from mcomp.stages.base import Finding, StageContext, StageOptions, StageResult, Surroundings, Traits
from mcomp.stages.forecast import Work
from mcomp.stages.registry import register
from mcomp.stages.training_stage import TRAINING_METRICS, TrainingStage, train
from mcomp.training.settings import TrainSettings

if TYPE_CHECKING:
    from torch import nn

    from mcomp.training.penalty import Penalty

#: Strengths where a recipe gives none: a pull by a constant, and in the last rise one by a share.
_USUAL = {"gamma_l1": 1e-3, "group_lasso": 1e-3, "growing": 0.5}


@register
class SparseTrain(TrainingStage):
    """Train while pulling channels to zero, so that pruning finds some to spare."""

    name, version = "sparse_train", 3
    traits = Traits(
        requires={"float", "bn"},
        provides={"sparse"},
        metrics=TRAINING_METRICS | {"gamma_small", "gamma_median", "norm_small", "norm_median"},
    )

    class Options(TrainSettings, StageOptions):
        """Those of :class:`mcomp.training.TrainSettings`, and the pull."""

        penalty: float | None = Field(
            None, gt=0, description="strength of the pull; when left out 1e-3, for growing 0.5 at the end"
        )
        mode: Literal["decoupled", "subgradient"] = Field(
            "decoupled", description="shrink after each step (any optimiser), or add to the gradient (gamma_l1 only)"
        )
        method: Literal["gamma_l1", "group_lasso", "growing"] = Field(
            "gamma_l1",
            description="pull at batch-norm scales; at whole filters with all that is coupled to them; or ever harder "
            "at the least important filters alone",
        )
        ratio: float = Field(0.5, gt=0, lt=1, description="growing: share of each layer's channels that is driven out")
        rises: int = Field(10, ge=1, description="growing: steps in which the strength rises over the run")

    @classmethod
    def resolve(cls, options: Any, around: Surroundings) -> Any:
        """The usual strength of the method where none is given."""
        return options.model_copy(update={"penalty": _strength(options)})

    @classmethod
    def check(cls, options: Any, around: Surroundings) -> list[Finding]:
        """Warn of what never comes into play; a subgradient is for scales, and for sgd."""
        found = super().check(options, around)
        found += [
            Finding(
                f"`{name}` does nothing: `method: {options.method}` {does}",
                option=(name,),
                hint="leave it out, or use `method: growing`",
                severity="warning",
            )
            for name, does in (("ratio", "pulls at all channels alike"), ("rises", "pulls equally hard throughout"))
            if name in options.model_fields_set and options.method != "growing"
        ]
        if options.mode == "subgradient" and options.method != "gamma_l1":
            found.append(
                Finding(
                    f"`method: {options.method}` has no `mode: subgradient`",
                    option=("mode",),
                    hint="leave `mode` out: its pull is decoupled from the optimiser",
                )
            )
        elif options.mode == "subgradient" and options.optimizer != "sgd":
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
    def preflight(cls, model: nn.Module, options: Any) -> list[Finding]:
        """Scales cannot be pulled at where there are none."""
        if options.method != "gamma_l1":
            return []  # the others pull at channels, which only a trace finds
        try:
            _penalty(options).prepare(model, (), steps=1)
        except StageError as error:
            return [Finding(error.message, ("method",), error.hint)]
        return []

    @classmethod
    def work(cls, options: Any) -> Work:
        """Training under the penalty, and one pass over the test images."""
        return Work(training=options, penalty=lambda: _penalty(options))

    def run(self, ctx: StageContext, options: Any) -> StageResult:
        """Train on ``ctx.data.train``; report accuracy on test, the median |γ| or norm and the share nearly zero."""
        result = train(ctx, options, _penalty(options))
        last = result.details["history"][-1]
        quantity = "gamma" if options.method == "gamma_l1" else "norm"
        if last[f"{quantity}_quantiles"]:
            result.metrics[f"{quantity}_median"] = last[f"{quantity}_quantiles"][2]
            result.metrics[f"{quantity}_small"] = last[f"{quantity}_small"]
        if last["collapsed"]:
            layers = ", ".join(f"`{name}`" for name in last["collapsed"])
            what = "scales" if quantity == "gamma" else "channels"
            result.notes.append(f"all {what} of {layers} are nearly zero: lower `penalty` to keep them")
        return result


def _penalty(options: Any) -> Penalty:
    from mcomp.pruning import BNPenalty, GroupLasso, GrowingPenalty

    strength = _strength(options)
    if options.method == "group_lasso":
        return GroupLasso(strength)
    if options.method == "growing":
        return GrowingPenalty(strength, options.ratio, options.rises)
    return BNPenalty(strength, mode=options.mode)


def _strength(options: Any) -> float:
    return float(_USUAL[options.method] if options.penalty is None else options.penalty)
