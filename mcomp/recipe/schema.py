"""The keys of a recipe that belong to no stage, model or data set."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field

from mcomp.options import Options
from mcomp.recipe.conditions import When

#: Names of recipes and ids of stages.
NAME_PATTERN = r"^[A-Za-z0-9][A-Za-z0-9_.\-]{0,63}$"
_NAME_WORDS = "letters, digits, `_`, `.` and `-`, at most 64, starting with a letter or digit"

#: Keys of the top level that compose recipes.
COMPOSING = ("extends", "override", "drop", "insert", "sweep")
#: What may stand under `otherwise` beside a stage.
OUTCOMES: tuple[Literal["skip", "stop", "fail"], ...] = ("skip", "stop", "fail")


#: An id where a stage is named by it, without quotes too: `1e3` and `true` are ids.
StageId = str | Annotated[float, Field(ge=0)] | bool


class Insertion(Options):
    """Stages that are put into the list of a base."""

    model_config = ConfigDict(json_schema_extra={"oneOf": [{"required": ["after"]}, {"required": ["before"]}]})

    after: StageId = Field("", description="id of the stage that they follow")
    before: StageId = Field("", description="id of the stage that they precede")
    stages: list[Any] = Field(description="what is put there, in order")


FileName = Annotated[str, Field(min_length=1)]
Values = dict[str, Annotated[list[Any], Field(min_length=1)]]


class Sweep(Options):
    """One run for every combination of values."""

    product: Values | None = Field(None, description="path to values: every value with every other")
    zip: Values | None = Field(None, description="path to values, as many for each: the first with the first, …")


class RecipeModel(Options):
    """The top level of a recipe. ``model``, ``data`` and the stages have models of their own, by their names."""

    version: int = Field(ge=1, le=1, description="of the recipe format", json_schema_extra={"expected": "`1`"})
    name: str = Field("", pattern=NAME_PATTERN, description="of the run", json_schema_extra={"expected": _NAME_WORDS})
    seed: int = Field(0, ge=0, description="every random number of the run follows from it")
    vars: dict[str, Any] | None = Field(None, description='values to use as `"${name}"`')
    model: dict[str, Any] = Field(
        description="the network to start from",
        json_schema_extra={"expected": "a mapping such as `{name: nin_gc}`"},
    )
    data: dict[str, Any] = Field(
        description="the images to train on and to measure with",
        json_schema_extra={"expected": "a mapping such as `{name: digits}`"},
    )
    stages: list[Any] = Field(
        min_length=1,
        description="what is done to the model, in order",
        json_schema_extra={"expected": "a list of at least one stage"},
    )
    device: str = Field(
        "auto",
        pattern=r"^(auto|cpu|cuda(:\d{1,3})?)$",
        description="where to compute",
        json_schema_extra={"expected": "`auto`, `cpu`, `cuda` or `cuda:<n>`"},
    )
    precision: Literal["auto", "fp32", "bf16"] = Field("auto", description="of training; auto is the fastest safe one")
    plugins: list[str] = Field(
        default_factory=list, description="Python files that register stages; they need `--trust`"
    )
    metadata: dict[str, Any] | None = Field(None, description="anything; kept with the run and never read")
    extends: FileName | list[FileName] | None = Field(
        None, description="the recipe, or recipes, that this one builds on"
    )
    override: dict[str, dict[str, Any]] | None = Field(
        None, description="id of a stage to the options and keywords that are changed"
    )
    drop: list[StageId] | None = Field(None, description="ids of stages that are left out")
    insert: list[Insertion] | None = Field(None, description="stages that are put between the others")
    sweep: Sweep | None = Field(None, description="paths to lists of values: one run for each combination")


class StageKeywords(Options):
    """The keys that stand beside a stage."""

    id: Annotated[str, Field(pattern=NAME_PATTERN)] | Annotated[float, Field(ge=0)] | bool = Field(
        "", description="name of this stage in the recipe"
    )
    source: str | None = Field(
        None, alias="from", description="id of the earlier stage whose model this one gets; the entry before by default"
    )
    when: When | bool | None = Field(None, description="what decides whether the stage runs")
    otherwise: Any = Field(None, description="where `when` does not hold: skip, stop, fail, or another stage")
    gates: list[Any] | None = Field(None, description="limits that this stage's figures must keep")
    seed: int | None = Field(None, ge=0, description="instead of the one that follows from the recipe's")
    cache: bool = Field(True, description="false: run it every time")
