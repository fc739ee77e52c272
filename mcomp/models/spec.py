"""What a recipe says under ``model:``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import ConfigDict, Field

from mcomp.options import Options


class ModelOptions(Options):
    """Keys that every model understands."""

    name: str = Field(
        description="`nin`, `resnet20`, … (`mcomp models`), `torchvision:<name>`, `timm:<name>`, `file.py:factory`"
    )
    num_classes: int | None = Field(None, ge=1, description="outputs; the data set's number when left out")
    weights: str | None = Field(None, description="start from this checkpoint: a state_dict file or an artifact folder")


class WidthOptions(ModelOptions):
    """Keys of the built-in networks."""

    width: float = Field(1.0, gt=0, le=16, description="multiplies every inner channel count")
    in_channels: int | None = Field(None, ge=1, description="channels of the input; the data set's when left out")


class OpenOptions(ModelOptions):
    """Keys of a model that mcomp did not write: the rest goes to its factory as it is."""

    model_config = ConfigDict(extra="allow")


class ModelSpec(Options):
    """A model to build: its name, and what its builder is told.

    Attributes:
        name: as in a recipe.
        num_classes: outputs; None leaves it to the data set.
        weights: checkpoint to start from.
        kwargs: the builder's other options.
    """

    name: str
    num_classes: int | None = Field(None, ge=1)
    weights: str | None = None
    kwargs: dict[str, Any] = Field(default_factory=dict)

    @classmethod
    def of(cls, source: str | Options | Mapping[str, Any]) -> ModelSpec:
        """From a name, from validated options, or from the flat mapping of a recipe."""
        if isinstance(source, cls):
            return source
        if isinstance(source, str):
            return cls(name=source)
        flat = source.model_dump(exclude_none=True) if isinstance(source, Options) else dict(source)
        common = {key: flat.pop(key) for key in ("name", "num_classes", "weights") if key in flat}
        return cls(**common, kwargs=flat)
