"""Bits and channels of each layer, found by trying."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mcomp.errors import UsageError
from mcomp.stages.base import Finding, Stage, StageContext, StageResult, Surroundings, Traits
from mcomp.stages.forecast import Forecast, Work
from mcomp.stages.layer_names import prunable_names, unmatched
from mcomp.stages.registry import register
from mcomp.stages.searching.options import OF_KIND, SAMPLED, SearchOptions
from mcomp.suggest import did_you_mean

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
        names = prunable_names(model)
        return [
            *(
                Finding(
                    f"no layer is called `{name}`",
                    option=("pins", name),
                    hint=did_you_mean(name, names) or "a pin is one layer by its name, no pattern",
                )
                for name in options.pins
                if name not in names
            ),
            *unmatched(model, "ignore", options.ignore, by_weight=True),
        ]

    @classmethod
    def check(cls, options: Any, around: Surroundings) -> list[Finding]:
        """A file to begin with that holds no choice."""
        from mcomp.stages.searching.choice_file import choice_file

        if options.start is None:
            return []
        try:
            choice_file(Path(options.start))
        except UsageError as error:
            return [Finding(error.message, option=("start",), hint=error.hint, code=error.code)]
        return []

    @classmethod
    def missing(cls, options: Any) -> str:
        """Optuna or Ray, where they are asked for."""
        needed = {"optuna": options.algorithm in SAMPLED or options.study is not None, "ray": options.ray is not None}
        gone = [name for name, wanted in needed.items() if wanted and importlib.util.find_spec(name) is None]
        return f"the package `{gone[0]}`" if gone else ""

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
