"""The base of everything a recipe can set: strict, closed, immutable."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict


class Options(BaseModel):
    """Options of a stage, model or data set.

    Unknown names, wrong types (``"5"`` for ``5``), NaN and infinity are refused; integers stand for floats.
    Write sequences as ``list[...]``: strict mode does not turn a YAML list into a tuple.
    A field with ``json_schema_extra={"cache": "ignore"}`` stays out of the action key.
    """

    model_config = ConfigDict(
        extra="forbid",
        strict=True,
        frozen=True,
        allow_inf_nan=False,
        validate_default=False,
        defer_build=True,  # a recipe uses few of the models that its imports define
    )
