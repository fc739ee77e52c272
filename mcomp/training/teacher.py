"""How a network is trained to answer like another one, as options. No torch."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BeforeValidator, Field

from mcomp.options import Options


class Teacher(Options):
    """Whose answers are learned, and how much they count."""

    stage: str = Field(description="id of an earlier stage on this stage's path; its model is the teacher")
    alpha: float = Field(
        0.5, gt=0, le=1, description="share of the teacher's answers in the loss; the rest is the labels'"
    )
    temperature: float = Field(4.0, gt=0, description="what logits are divided by before they become probabilities")


def _teacher(value: Any) -> Any:
    """The id alone is a teacher in the usual way."""
    if value is None or isinstance(value, dict | Teacher):
        return value
    if not isinstance(value, str):
        raise ValueError(f"{value!r:.40} is neither a stage's id nor a mapping such as `{{stage: train, alpha: 0.7}}`")
    return {"stage": value}


class Taught(Options):
    """Options of a training that may have a teacher."""

    teacher: Annotated[Teacher | None, BeforeValidator(_teacher, json_schema_input_type=str | Teacher | None)] = Field(
        None,
        description="learn from the answers of an earlier stage's model too (Hinton 2015): its id, or {stage, alpha, "
        "temperature}",
    )

    def teachers(self) -> list[str]:
        """Ids of the stages whose models are needed."""
        return [] if self.teacher is None else [self.teacher.stage]
