"""Bits and channels of each layer, found by trying."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from mcomp.stages.base import Finding, Stage, StageContext, StageResult, Traits
from mcomp.stages.forecast import Forecast, Work
from mcomp.stages.layer_names import unmatched
from mcomp.stages.registry import register
from mcomp.stages.searching.options import OF_KIND, SearchOptions

if TYPE_CHECKING:
    from torch import nn

#: CPU seconds of a cheap and of a close look, of a small network on one core.
_CHEAP, _CLOSE = 0.25, 2.5


@register
class Search(Stage):
    """Find bits and channels for each layer under budgets, by trying candidates without training their weights.

    The model goes on as it is, with the choice noted on it: later stages take it by `prune: {keep: search}` and
    `quantize: {bits: search}`.
    """

    name, version = "search", 1
    traits = Traits(
        requires={"float", "bn"},
        metrics={
            "top1",
            "loss",
            "val_top1",
            "candidates",
            "candidates_failed",
            "front",
            *(f"chosen_{name}" for name in OF_KIND),
        },
    )

    class Options(SearchOptions):
        """What is searched, under which budgets, how, and by whom."""

    @classmethod
    def preflight(cls, model: nn.Module, options: Any) -> list[Finding]:
        """Pins and patterns that name no layer."""
        return [
            *unmatched(model, "pins", options.pins, by_weight=True),
            *unmatched(model, "ignore", options.ignore, by_weight=True),
        ]

    @classmethod
    def forecast(cls, incoming: Forecast, options: Any) -> Forecast:
        """The model itself."""
        return incoming

    @classmethod
    def work(cls, options: Any) -> Work:
        """Candidates, and one pass over the test images."""
        close = options.candidates * (0.25 if options.proxy else 1.0)
        cheap = options.candidates if options.proxy else 0
        return Work(fixed_seconds=cheap * _CHEAP + close * _CLOSE)

    def run(self, ctx: StageContext, options: Any) -> StageResult:
        """Search; go on where an earlier run of this action was stopped."""
        from mcomp.stages.searching.run import SearchRun

        return SearchRun(ctx, options).result()
