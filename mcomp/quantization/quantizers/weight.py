"""What every weight quantiser offers: the fake-quantised tensor and the integers behind it."""

from __future__ import annotations

from abc import abstractmethod
from typing import ClassVar

import torch
from torch import Tensor, nn

from mcomp.errors import StageError
from mcomp.quantization.config import OFF
from mcomp.quantization.integers import IntegerWeight


class WeightQuantizer(nn.Module):
    """Base of weight quantisers; holds no state, so it can be rebuilt from its arguments.

    Attributes:
        bits: nominal bits; 32 passes the weight through.
        integer_bits: signed bits that the integers need.
    """

    scheme: ClassVar[str]

    def __init__(self, bits: int) -> None:
        super().__init__()
        self.bits = bits

    @property
    def integer_bits(self) -> int:
        """Signed bits that the integers need."""
        return self.bits

    @abstractmethod
    def codes(self, weight: Tensor) -> tuple[Tensor, Tensor]:
        """Integer-valued float32 codes and their scale ``[1]`` or ``[out_channels]``."""

    def integer(self, weight: Tensor) -> IntegerWeight:
        """The weight as integers.

        Raises:
            StageError: the weight holds inf or nan, or this quantiser is off.
        """
        if self.bits == OFF:
            raise StageError("a float weight has no integers", code="MC422", hint="w_bits 32 keeps a weight in float")
        if not bool(torch.isfinite(weight).all()):
            raise StageError(
                f"a weight of shape {tuple(weight.shape)} holds inf or nan",
                code="MC424",
                why="training diverged, or the checkpoint is damaged",
                hint="lower `lr`, or start from an earlier checkpoint",
            )
        with torch.no_grad():
            values, scale = self.codes(weight.detach().float())
        return IntegerWeight(values.to(torch.int32), scale, self.integer_bits, why=self.why())

    def why(self) -> str:
        """What the integers are, for the report."""
        return f"{self.bits}-bit symmetric integers"
