"""``when`` as data: the closed vocabulary of what may decide whether a stage runs. The engine decides."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from mcomp.options import Options

DROPS = ("max_drop", "min_drop")
RATIOS = ("max_ratio", "min_ratio")
LIMITS = ("min", "max", *DROPS, *RATIOS)


class When(Options):
    """One condition: a runtime that is present, the device of the run, or a figure of an earlier stage.

    ``min``, ``max``, ``max_drop``, ``max_ratio``, ``vs`` and ``unit`` mean what they mean in a gate; ``min_drop`` and
    ``min_ratio`` are their opposites, so that "finetune only if pruning cost more than a point" can be said.
    Several limits have to hold together.
    """

    backend: Literal["cuda", "tensorrt", "onnxruntime", "openvino"] | None = Field(
        None, description="true where this runtime is present"
    )
    device: Literal["cpu", "cuda"] | None = Field(None, description="true where the run computes there")
    present: bool = Field(True, description="false turns `backend` and `device` around")
    stage: str | None = Field(None, description="id of the earlier stage whose `metric` decides")
    metric: str | None = Field(None, description="name of a metric that `stage` reports")
    min: float | None = Field(None, description="smallest value for which the stage runs")
    max: float | None = Field(None, description="largest value for which the stage runs")
    max_drop: float | None = Field(None, description="largest loss against `vs` for which the stage runs")
    min_drop: float | None = Field(None, description="smallest loss against `vs` for which the stage runs")
    max_ratio: float | None = Field(None, gt=0, description="largest value, divided by that of `vs`")
    min_ratio: float | None = Field(None, gt=0, description="smallest value, divided by that of `vs`")
    vs: str | None = Field(None, description="id of the earlier stage to compare with")
    unit: Literal["points", "percent"] | None = Field(None, description="of the drops; points when left out")

    @model_validator(mode="after")
    def _one_question(self) -> When:
        asked = self._written("backend", "device", "stage")
        if len(asked) > 1:
            raise ValueError(f"`{asked[0]}` and `{asked[1]}` are two conditions; a stage has one")
        figure = self._written("metric", *LIMITS, "vs", "unit")
        if not asked and figure:
            raise ValueError(f"`{figure[0]}` needs `stage`, the id of the earlier stage that is measured")
        if not asked:
            raise ValueError("a condition needs one of `backend`, `device` and `stage`")
        if asked != ["stage"]:
            if figure:
                raise ValueError(f"`{figure[0]}` belongs to a condition on a `stage`, not to one on `{asked[0]}`")
            return self
        if "present" in self.model_fields_set:
            raise ValueError("`present` belongs to `backend` and `device`, not to a condition on a `stage`")
        self._figure_makes_sense()
        return self

    def _figure_makes_sense(self) -> None:
        if self.metric is None:
            raise ValueError("`stage` needs `metric`, the name of a figure that the stage reports")
        if not self._written(*LIMITS):
            raise ValueError(f"a condition on a `metric` needs a limit: {', '.join(f'`{one}`' for one in LIMITS)}")
        relative = self._written(*DROPS, *RATIOS)
        if relative and self.vs is None:
            raise ValueError(f"`{relative[0]}` needs `vs`, the id of the earlier stage to compare with")
        if self.vs is not None and not relative:
            raise ValueError(f"`vs` has nothing to compare: add {' or '.join(f'`{one}`' for one in DROPS + RATIOS)}")
        if self.vs is not None and self.vs == self.stage:
            raise ValueError(f"`vs: {self.vs}` compares the stage with itself")
        if self.unit is not None and not self._written(*DROPS):
            raise ValueError("`unit` belongs to `max_drop` and `min_drop`, which are not given")
        for kind in ("", "_drop", "_ratio"):
            low, high = getattr(self, f"min{kind}"), getattr(self, f"max{kind}")
            if low is not None and high is not None and low > high:
                raise ValueError(f"`min{kind}` {low:g} is above `max{kind}` {high:g}: it could never hold")

    def _written(self, *names: str) -> list[str]:
        return [name for name in names if getattr(self, name) is not None]
