"""What a training run can be told, without torch."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, field_validator, model_validator

from mcomp.options import Options


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
    grad_clip: float | None = Field(1.0, gt=0, description="largest norm of the whole gradient; null for no limit")
    batch_size: int | None = Field(None, ge=1, description="images per step; the data set's own when left out")
    augment: bool = Field(True, description="use the data set's augmentation")
    checkpoint_every: int = Field(
        1, ge=1, description="epochs between snapshots for resuming", json_schema_extra={"cache": "ignore"}
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
