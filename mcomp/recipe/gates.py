"""Gates as data: the limits a stage's figures must keep. The engine measures and compares."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from mcomp.options import Options


class Gate(Options):
    """One metric of a stage and its limits.

    ``max_drop`` is the loss against stage ``vs``: in points (the metric's own unit) or in percent of the
    value there. ``max_ratio`` is the value divided by that of ``vs``.
    """

    metric: str = Field(description="name of a metric that the stage reports")
    min: float | None = Field(None, description="smallest value accepted")
    max: float | None = Field(None, description="largest value accepted")
    max_drop: float | None = Field(None, description="largest loss accepted against the stage `vs`")
    max_ratio: float | None = Field(None, gt=0, description="largest value accepted, divided by that of `vs`")
    vs: str | None = Field(None, description="id of the earlier stage to compare with")
    unit: Literal["points", "percent"] | None = Field(None, description="of `max_drop`; points when left out")

    @model_validator(mode="after")
    def _limits_make_sense(self) -> Gate:
        relative = [name for name in ("max_drop", "max_ratio") if getattr(self, name) is not None]
        if not relative and self.min is None and self.max is None:
            raise ValueError("a gate needs a limit: `min`, `max`, `max_drop` or `max_ratio`")
        if relative and self.vs is None:
            raise ValueError(f"`{relative[0]}` needs `vs`, the id of the earlier stage to compare with")
        if self.vs is not None and not relative:
            raise ValueError("`vs` has nothing to compare: add `max_drop` or `max_ratio`")
        if self.unit is not None and self.max_drop is None:
            raise ValueError("`unit` belongs to `max_drop`, which is not given")
        if self.min is not None and self.max is not None and self.min > self.max:
            raise ValueError(f"`min` {self.min:g} is above `max` {self.max:g}: nothing could pass")
        return self
