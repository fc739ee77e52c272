"""The kind of weight quantiser that is a pure function of the weight."""

from __future__ import annotations

from torch import Tensor

from mcomp.errors import UsageError
from mcomp.quantization.integers import QParams
from mcomp.quantization.quantizers.base import Quantizer


class WeightQuantizer(Quantizer):
    """Base of weight quantisers without state, which can be rebuilt from their arguments.

    Attributes:
        bits: nominal bits; 32 passes the weight through.
        integer_bits: signed bits that the integers need.
    """

    def __init__(self, bits: int) -> None:
        top = 2 ** (bits - 1) - 1
        super().__init__(bits, -top, top)

    def qparams(self, x: Tensor | None = None) -> QParams:
        """The grid of the weight ``x``, one scale per filter where it has several.

        Raises:
            UsageError: ``x`` is missing.
        """
        held = self.held_qparams()
        if held is not None:
            return held
        if x is None:
            raise UsageError(
                f"the range of {type(self).__name__} comes from each weight",
                code="MC427",
                hint="call `qparams(weight)`",
            )
        _, scale = self.codes(x.detach().float())
        if scale.numel() == 1:
            return QParams(float(scale), 0, self.qmin, self.qmax)
        return QParams(scale, 0, self.qmin, self.qmax, axis=0)
