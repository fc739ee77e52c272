"""What a training run can be told, without torch."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import (
    BeforeValidator,
    Field,
    SerializerFunctionWrapHandler,
    field_validator,
    model_serializer,
    model_validator,
)

from mcomp.options import Options


class Checkpoints(Options):
    """When a run keeps a snapshot to go on from: whichever comes first."""

    epochs: int | None = Field(None, ge=1, description="after every so many epochs")
    steps: int | None = Field(None, ge=1, description="after every so many optimiser steps, inside an epoch too")
    seconds: float | None = Field(None, gt=0, description="after so many seconds, at the next step")

    @model_validator(mode="after")
    def _some(self) -> Checkpoints:
        if self.epochs is None and self.steps is None and self.seconds is None:
            raise ValueError("says neither epochs, steps nor seconds; write e.g. `{epochs: 1, seconds: 300}`")
        return self

    @model_serializer(mode="wrap")
    def _only_what_is_set(self, serialise: SerializerFunctionWrapHandler) -> dict[str, Any]:
        return {name: value for name, value in serialise(self).items() if value is not None}


def _checkpoints(value: Any) -> Any:
    """A plain number counts epochs."""
    if isinstance(value, int) and not isinstance(value, bool):
        if value < 1:
            raise ValueError(f"a snapshot every {value} epochs makes no sense; 1 is the least")
        return Checkpoints(epochs=value)
    if not isinstance(value, dict | Checkpoints):
        raise ValueError(
            f"{value!r:.40} is neither a number of epochs nor a mapping such as `{{epochs: 1, steps: 500}}`"
        )
    return value


class TrainSettings(Options):
    """Optimiser, schedule and length of one training run."""

    epochs: int = Field(5, ge=1, description="passes over the training images")
    optimizer: Literal["sgd", "adam", "adamw"] = Field("sgd", description="adamw decouples weight decay")
    lr: float = Field(0.1, gt=0, description="peak learning rate")
    momentum: float = Field(0.9, ge=0, lt=1, description="momentum of sgd; the first beta of adam and adamw")
    nesterov: bool = Field(True, description="Nesterov momentum (sgd only)")
    weight_decay: float = Field(5e-4, ge=0, description="L2 pull on weights")
    decay_norm: bool = Field(False, description="let weight decay act on normalisation parameters and biases as well")
    schedule: Literal["multistep", "cosine", "one_cycle", "constant"] = Field(
        "one_cycle", description="how the learning rate moves over the run"
    )
    milestones: list[float] = Field(
        [0.5, 0.75],
        description="multistep: where lr is multiplied by gamma; a share of the epochs below 1, else an epoch",
    )
    gamma: float = Field(0.1, gt=0, le=1, description="multistep: factor at each milestone")
    warmup_epochs: float = Field(
        0.0, ge=0, description="epochs of linear warm-up, fractions allowed; 0 with one_cycle: 30 % of the run"
    )
    label_smoothing: float = Field(0.0, ge=0, lt=1, description="share of the target spread over all classes")
    mixup: float = Field(
        0.0, ge=0, le=100, description="mix images and labels in pairs, by a share of Beta(mixup, mixup); 0: do not"
    )
    cutmix: float = Field(
        0.0,
        ge=0,
        le=100,
        description="put a box of one image into another, its share of Beta(cutmix, cutmix); 0: do not",
    )
    ema: float | None = Field(
        None,
        gt=0,
        lt=1,
        description="deliver the moving average of the weights, with this decay per step, e.g. 0.999",
    )
    grad_clip: float | None = Field(1.0, gt=0, description="largest norm of the whole gradient; null for no limit")
    batch_size: int | None = Field(None, ge=1, description="images per step; the data set's own when left out")
    augment: bool = Field(True, description="use the data set's augmentation")
    checkpoint_every: Annotated[
        Checkpoints, BeforeValidator(_checkpoints, json_schema_input_type=Annotated[int, Field(ge=1)] | Checkpoints)
    ] = Field(
        Checkpoints(epochs=1, seconds=300),
        description="when to keep a snapshot: every n epochs, or {epochs, steps, seconds}, whichever is first",
        json_schema_extra={"cache": "ignore"},
    )

    @field_validator("milestones")
    @classmethod
    def _positive(cls, milestones: list[float]) -> list[float]:
        for milestone in milestones:
            if milestone <= 0:
                raise ValueError(f"milestone {milestone:g} is not above 0; 0.5 is half of the epochs, 40 is epoch 40")
            if milestone > 1 and milestone != int(milestone):
                raise ValueError(f"milestone {milestone:g} is neither a share below 1 nor a whole epoch")
        return milestones

    @model_validator(mode="after")
    def _consistent(self) -> TrainSettings:
        at = self.milestone_epochs()
        if at != sorted(set(at)):
            raise ValueError(f"milestones must rise; these fall at epochs {', '.join(f'{epoch:g}' for epoch in at)}")
        if self.warmup_epochs >= self.epochs:
            raise ValueError(
                f"warmup_epochs {self.warmup_epochs:g} leaves none of the {self.epochs} epochs at the full rate"
            )
        return self

    def milestone_epochs(self) -> list[float]:
        """The milestones in epochs: shares below 1 are taken of ``epochs``."""
        return [milestone * self.epochs if milestone < 1 else milestone for milestone in self.milestones]
