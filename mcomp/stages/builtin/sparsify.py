"""Single weights set to zero, and kept there."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import AfterValidator, Field, WithJsonSchema, model_validator

from mcomp.stages.base import Finding, Metrics, Stage, StageContext, StageOptions, StageResult, Surroundings, Traits
from mcomp.stages.forecast import Forecast, Work
from mcomp.stages.layer_names import unmatched
from mcomp.stages.placed_faults import fault_at
from mcomp.stages.registry import register

if TYPE_CHECKING:
    from torch import nn

_FIXED = r"[1-9][0-9]{0,3}:[1-9][0-9]{0,3}"


def _on_offer(pattern: str) -> str:
    n, _, m = pattern.partition(":")
    if pattern in ("unstructured", "block") or (n.isdecimal() and m.isdecimal() and 0 < int(n) < int(m) < 10_000):
        return pattern
    raise ValueError(f"pattern `{pattern:.40}` is none of unstructured, block, and n:m such as 2:4 with n below m")


Pattern = Annotated[
    str,
    AfterValidator(_on_offer),
    WithJsonSchema({"anyOf": [{"enum": ["unstructured", "block"]}, {"type": "string", "pattern": f"^{_FIXED}$"}]}),
]


@register
class Sparsify(Stage):
    """Set the smallest weights to zero, singly, in blocks or n of every m, for all training behind it to keep."""

    name, version = "sparsify", 1
    traits = Traits(
        requires={"float"},
        provides={"masked"},
        metrics={"top1", "loss", "macs", "effective_macs", "sparsity"},
    )

    class Options(StageOptions):
        ratio: float | None = Field(
            None, gt=0, lt=1, description="share of the weights, or blocks, to cut; left out where the pattern says it"
        )
        pattern: Pattern = Field(
            "unstructured",
            description="unstructured, block, or n:m such as 2:4: of every m neighbouring input channels n stay",
        )
        scope: Literal["global", "per_layer"] = Field(
            "global", description="rank the weights of all layers together, or cut the same share of each"
        )
        block: list[Annotated[int, Field(ge=1)]] = Field(
            [1, 4], min_length=2, max_length=2, description="output and input channels of one block"
        )
        ignore: list[str] = Field([], description="names or patterns (`classifier.*`) of layers to leave dense")

        @model_validator(mode="after")
        def _consistent(self) -> Sparsify.Options:
            if ":" in self.pattern and self.ratio is not None:
                text = f"ratio {self.ratio:g} and pattern {self.pattern}, which is a ratio by itself"
                raise fault_at("ratio", text, self.model_dump())
            if ":" not in self.pattern and self.ratio is None:
                raise ValueError(f"pattern {self.pattern} needs a ratio")
            return self

    @classmethod
    def check(cls, options: Any, around: Surroundings) -> list[Finding]:
        """Warn of a pattern that a later stage would break, and of options that do nothing."""
        found = []
        idle = [] if options.pattern == "block" else ["block"]
        if ":" in options.pattern:
            idle.append("scope")
        for name in idle:
            if name in options.model_fields_set:
                needed = "block" if name == "block" else "unstructured"
                found.append(
                    Finding(
                        f"`{name}` does nothing: `pattern: {options.pattern}` "
                        f"{'has no blocks' if name == 'block' else 'cuts the same share of every layer'}",
                        option=(name,),
                        hint=f"leave it out, or use `pattern: {needed}`",
                        severity="warning",
                    )
                )
        if options.pattern == "unstructured" or "prune" not in around.after:
            return found
        return [
            *found,
            Finding(
                f"`prune` downstream takes channels out of the pattern {options.pattern}: its zeros stay, "
                "their places shift",
                option=("pattern",),
                hint="put `prune` first",
                severity="warning",
            ),
        ]

    @classmethod
    def preflight(cls, model: nn.Module, options: Any) -> list[Finding]:
        """Patterns that name no layer."""
        return unmatched(model, "ignore", options.ignore)

    @classmethod
    def forecast(cls, incoming: Forecast, options: Any) -> Forecast:
        """Other weights in the same structure."""
        return incoming.trained()

    @classmethod
    def work(cls, options: Any) -> Work:
        """One pass over the test images; ranking the weights takes next to nothing."""
        return Work()

    def run(self, ctx: StageContext, options: Any) -> StageResult:
        """Mask a copy of ``ctx.model``; report accuracy on test where there is data."""
        from mcomp.pruning import sparsify

        block = options.block[0], options.block[1]
        how = options.model_dump(exclude={"block"})
        result = sparsify(ctx.model, ctx.example_inputs, block=block, **how)
        metrics: Metrics = {
            **ctx.evaluate(result.model),
            "macs": result.macs,
            "effective_macs": result.effective_macs,
            "sparsity": result.sparsity,
        }
        layers = [{"layer": name, "sparsity": percent} for name, percent in result.layers.items()]
        return StageResult(model=result.model, metrics=metrics, notes=result.notes, details={"layers": layers})
