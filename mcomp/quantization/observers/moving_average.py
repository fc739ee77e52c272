"""Extremes of each batch, averaged exponentially (Jacob et al., arXiv:1712.05877, section 3.1)."""

from __future__ import annotations

from torch import Tensor

from mcomp.quantization.observers.minmax import MinMaxObserver


class MovingAverageObserver(MinMaxObserver):
    """``low += momentum * (min(x) - low)``, and so for ``high``; the first batch counts in full.

    Args:
        channel_axis: the dimension with a range per entry; None for one range.
        momentum: weight of the newest batch.
    """

    def __init__(self, channel_axis: int | None = None, momentum: float = 0.01) -> None:
        super().__init__(channel_axis)
        self.momentum = momentum

    def _move(self, low: Tensor, high: Tensor) -> None:
        self.low.lerp_(low, self.momentum)
        self.high.lerp_(high, self.momentum)
