"""Whole channels out of the network, weights transferred."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, Literal

from pydantic import ConfigDict, Field, ValidationError, field_validator, model_validator
from pydantic_core import InitErrorDetails, PydanticCustomError

from mcomp.pruning.targets import Target, amount_of, target_of
from mcomp.stages.base import Finding, Stage, StageContext, StageOptions, StageResult, Surroundings, Traits
from mcomp.stages.builtin.finetune import Finetune
from mcomp.stages.forecast import PRUNE_SECONDS, Forecast, Work
from mcomp.stages.layer_names import unmatched
from mcomp.stages.placed_faults import fault_at, faults_at
from mcomp.stages.prune_findings import TARGETS, idle, matched_twice, said_twice, too_many
from mcomp.stages.quantities import Quantity
from mcomp.stages.registry import register
from mcomp.stages.searched import SEARCH, file_findings, layers_of_file, not_searched, searched_pruning, with_file
from mcomp.stages.training_stage import idle_milestones, taught_by
from mcomp.training.hardware import processor

if TYPE_CHECKING:
    from torch import nn

# INT8 kernels of TensorRT work on packs of this many channels.
_PACK = 16

#: One of these has to say how much goes.
_AMOUNTS = (*TARGETS, "keep", "keep_file", "prune")

_EXAMPLES = "`ratio: 0.5` (to cut), `macs: 0.3`, `params: 0.3` (to leave), `latency_ms: 5`, `keep: {layer: 0.5}`"


@register
class Prune(Stage):
    """Cut the least important channels, and prove that the rest computes what the masked network computed."""

    name, version = "prune", 4
    traits = Traits(
        requires={"float", "bn"},
        provides={"pruned"},
        metrics={"top1", "loss", "params", "macs", "channels_kept", "max_error"},
    )

    class Options(StageOptions):
        """What goes: a target, or shares by layer; how channels are ranked; in how many steps."""

        model_config = ConfigDict(
            json_schema_extra={"not": {"properties": {name: {"type": "null"} for name in _AMOUNTS}}}
        )

        ratio: float | None = Field(None, gt=0, lt=1, description="share of the prunable channels to cut")
        macs: Quantity = Field(
            None,
            description="multiply-accumulates to leave, within 2 %: a share below 1, or a count above: 300M, 1.2 G",
        )
        params: Quantity = Field(
            None, description="parameters to leave, within 2 %: a share below 1, or a count above: 250K"
        )
        latency_ms: float | None = Field(
            None, gt=0, description="milliseconds to reach, within 2 %: one image, one thread, eager PyTorch, this CPU"
        )
        keep: dict[str, int | float] | list[int | float] | Literal["search"] | None = Field(
            None,
            description="layer or pattern to the share of its channels that stays (0.5) or their count (24); "
            "a list of shares, one for each layer in order of execution; or `search`: what a `search` before it found",
        )
        keep_file: str | None = Field(
            None,
            description="a YAML file of the same, below the key `keep` say: the `best.yaml` of a search",
            json_schema_extra={"path": True},
        )
        prune: dict[str, float] | list[float] | None = Field(
            None, description="the same of shares that go: {layer or pattern: 0.5}, or a list"
        )
        regular: int = Field(1, ge=1, description="every pruned width is a multiple of this")
        importance: Literal["bn_gamma", "l1", "l2", "fpgm", "lamp", "taylor", "hessian", "random"] = Field(
            "bn_gamma",
            description="what ranks channels: |γ| of their batch norm, a norm of their filters, distance to the other "
            "filters, magnitude within the layer, change of the loss to first or second order, or chance",
        )
        scope: Literal["global", "per_layer", "isomorphic"] = Field(
            "global", description="one threshold for the whole network, for each layer, or for layers of one structure"
        )
        group_reduction: Literal["mean", "max", "sum"] = Field(
            "mean", description="what the filters of one channel, in coupled layers, heads or gates, score together"
        )
        normalize: Literal["auto", "none", "mean", "max", "l2"] = Field(
            "auto", description="what scores of a layer are divided by; auto: their mean for l1, l2 and fpgm, else none"
        )
        score_batches: int = Field(8, ge=1, description="taylor, hessian: training batches to take gradients from")
        min_channels: int = Field(1, ge=1, description="no layer keeps fewer channels")
        ignore: list[str] = Field([], description="names or patterns (`features.0.*`) of layers to leave whole")
        heads: Literal["dims", "whole"] = Field(
            "dims", description="attention loses single channels, as many of every head, or whole heads"
        )
        steps: int = Field(1, ge=1, description="prune in so many steps, with `finetune` between them")
        finetune: Finetune.Options | None = Field(None, description="training between two steps, as of `finetune`")

        @field_validator("macs", "params")
        @classmethod
        def _quantity(cls, value: Quantity) -> Quantity:
            if value is not None:
                amount_of(value)
            return value

        @field_validator("keep")
        @classmethod
        def _stays(cls, shares: Any) -> Any:
            faults = {}
            for place, share in _items(shares):
                counted = isinstance(share, int) and isinstance(shares, dict)
                if share <= 0 or (share > 1 and not counted):
                    faults[place] = f"{share} is neither a share in (0, 1] nor a count of channels"
            if faults:
                raise faults_at(faults, shares)
            return shares

        @field_validator("prune")
        @classmethod
        def _goes(cls, shares: Any) -> Any:
            text = "{} is no share in [0, 1); `keep` can also count channels"
            faults = {place: text.format(share) for place, share in _items(shares) if not 0 <= share < 1}
            if faults:
                raise faults_at(faults, shares)
            return shares

        @model_validator(mode="after")
        def _one_target(self) -> Prune.Options:
            named = [name for name in TARGETS if getattr(self, name) is not None]
            if len(named) > 1:
                names = " and ".join(f"`{name}`" for name in named)
                raise fault_at(named[1], f"{names} exclude one another: a pruning has one target", self.model_dump())
            if self.keep is not None and self.keep_file is not None:
                raise fault_at("keep_file", "`keep` and `keep_file` exclude one another", self.model_dump())
            if self.target() is None and not self.keep and not self.keep_file and not self.prune:
                if self.model_fields_set & set(_AMOUNTS):
                    raise ValueError(f"nothing says how much goes; write one of {_EXAMPLES}")
                raise _no_target(self)
            if isinstance(self.keep, list) and isinstance(self.prune, list):
                raise ValueError("`keep` and `prune` exclude one another where both are lists of all layers")
            if (self.steps > 1) != (self.finetune is not None):
                raise ValueError(
                    "`steps` above 1 and `finetune` need one another, e.g. `steps: 5, finetune: {epochs: 1}`"
                )
            return self

        def target(self) -> Target | None:
            """The one target; None where only lists say what goes."""
            return target_of(
                {"ratio": self.ratio, "macs": self.macs, "params": self.params, "latency_ms": self.latency_ms}
            )

        def how(self) -> dict[str, Any]:
            """Arguments of :func:`mcomp.pruning.prune` that are the same in every step."""
            names = (
                "regular",
                "importance",
                "scope",
                "group_reduction",
                "normalize",
                "min_channels",
                "ignore",
                "heads",
            )
            return {name: getattr(self, name) for name in names}

    @classmethod
    def reads(cls, options: Any) -> list[str]:
        """The teacher of the training between steps."""
        return taught_by(options.finetune)

    @classmethod
    def check(cls, options: Any, around: Surroundings) -> list[Finding]:
        """A layer told two things; warnings of widths that INT8 kernels would pad, and of options that do nothing."""
        found = [
            *said_twice(options),
            *idle(options),
            *not_searched("keep", options.keep, around),
            *file_findings(options),
        ]
        if "trt_int8" in around.after and options.regular % _PACK:
            found.append(
                Finding(
                    f"widths in multiples of {options.regular} are padded by `trt_int8` downstream",
                    option=("regular",),
                    hint=f"INT8 kernels work in {_PACK}-channel packs; use `regular: {_PACK}`",
                    code="MC131",
                    severity="warning",
                )
            )
        if options.finetune is not None:
            found += [
                Finding(one.message, ("finetune", *one.option), one.hint, one.code, one.severity)
                for one in idle_milestones(options.finetune)
            ]
        return found

    @classmethod
    def preflight(cls, model: nn.Module, options: Any) -> list[Finding]:
        """Patterns that name no layer, and layers that are told two things, or to keep more than they have."""
        found = unmatched(model, "ignore", options.ignore, by_weight=True)
        for name in ("keep", "prune"):
            shares = getattr(options, name)
            if isinstance(shares, dict):
                found += unmatched(model, name, shares, by_weight=True)
        found += unmatched(model, "keep_file", layers_of_file(options), by_weight=True)
        return found or matched_twice(model, options) or too_many(model, options)

    @classmethod
    def key_parts(cls, options: Any) -> dict[str, Any]:
        """What latency is measured on."""
        return {} if options.latency_ms is None else {"processor": processor()}

    @classmethod
    def forecast(cls, incoming: Forecast, options: Any) -> Forecast:
        """The very outcome where its scores are known by now, or do not matter; else the bounds that hold for any."""
        from mcomp.stages.prune_forecast import forecast

        if options.keep == SEARCH:
            return Forecast.unknown()
        return forecast(incoming, with_file(options))

    @classmethod
    def work(cls, options: Any) -> Work:
        """Tracing, surgery and its proof in each step, training between them, and one pass over the test images."""
        training = None
        if options.finetune is not None:
            training = options.finetune.model_copy(update={"epochs": options.finetune.epochs * (options.steps - 1)})
        return Work(training=training, fixed_seconds=PRUNE_SECONDS * options.steps)

    def run(self, ctx: StageContext, options: Any) -> StageResult:
        """Prune a copy of ``ctx.model``; report accuracy on test where there is data."""
        from mcomp.stages.pruning_steps import PruningSteps

        return PruningSteps(ctx, searched_pruning(ctx.model, options)).result()


def _no_target(given: Any) -> ValidationError:
    """The fault of a mapping that lacks ``ratio``, and what it may have instead."""
    usual, *others = _AMOUNTS
    instead = f", or one of {', '.join(f'`{name}`' for name in others)} in its place"
    kind = PydanticCustomError("missing", "nothing says how much goes", {"instead": instead})
    return ValidationError.from_exception_data(
        "Options", [InitErrorDetails(type=kind, loc=(usual,), input=given.model_dump())]
    )


def _items(shares: Any) -> Iterable[tuple[str | int, Any]]:
    if shares == SEARCH:
        return []
    return shares.items() if isinstance(shares, dict) else enumerate(shares or [])
