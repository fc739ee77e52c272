"""The keys of a recipe that belong to no stage, model or data set."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field

from mcomp.options import Options

#: Names of recipes and ids of stages.
NAME_PATTERN = r"^[A-Za-z0-9][A-Za-z0-9_.\-]{0,63}$"
_NAME_WORDS = "letters, digits, `_`, `.` and `-`, at most 64, starting with a letter or digit"

#: Keys of the top level that compose recipes; they arrive in a later version.
LATER_KEYS = ("extends", "override", "drop", "insert", "sweep")


class RecipeModel(Options):
    """The top level of a recipe. ``model``, ``data`` and the stages have models of their own, by their names."""

    version: Literal[1] = Field(description="of the recipe format")
    name: str = Field("", pattern=NAME_PATTERN, description="of the run", json_schema_extra={"expected": _NAME_WORDS})
    seed: int = Field(0, ge=0, description="every random number of the run follows from it")
    vars: Any = Field(None, description='values to use as `"${name}"`')
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


class StageKeywords(Options):
    """The keys that stand beside a stage."""

    id: Annotated[str, Field(pattern=NAME_PATTERN)] | None = Field(
        None, description="name of this stage in the recipe", json_schema_extra={"expected": _NAME_WORDS}
    )
    gates: list[Any] | None = Field(None, description="limits that this stage's figures must keep")
    seed: int | None = Field(None, ge=0, description="instead of the one that follows from the recipe's")
    cache: bool = Field(True, description="false: run it every time")
