"""The extremes of everything seen."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from mcomp.quantization.observers.base import Observer, Range
from mcomp.quantization.observers.extremes import extremes, refuse_not_finite
from mcomp.quantization.pieces import at_hand


class MinMaxObserver(Observer):
    """Smallest and largest value of all tensors seen, per tensor or per channel; merges exactly, in any order.

    Cheap and steady enough to follow every training batch; observers of other kinds move while calibrating only.

    Args:
        channel_axis: the dimension with a range per entry; None for one range.

    Attributes:
        low: float32 buffer, 0-d or ``[channels]``; inf while nothing was seen.
        high: likewise; -inf.
    """

    low: Tensor
    high: Tensor

    def __init__(self, channel_axis: int | None = None) -> None:
        super().__init__()
        self.channel_axis = channel_axis
        self.register_buffer("low", torch.tensor(float("inf")))
        self.register_buffer("high", torch.tensor(float("-inf")))
        self._seen = False  # mirrors the buffers, so that a forward pass never waits for the device

    @property
    def empty(self) -> bool:
        """Whether nothing was seen yet."""
        return not self._seen

    def update(self, x: Tensor, name: str = "") -> None:
        """Widen the range to that of ``x``; on a GPU, inf and nan are refused when the range is read."""
        if x.numel():
            self.see(*extremes(x, self.channel_axis), name)

    def see(self, low: Tensor, high: Tensor, name: str = "") -> None:
        """Widen the range to ``[low, high]``, the extremes of a tensor."""
        if at_hand(low):
            refuse_not_finite(low, high, name)
        with torch.no_grad():
            if self._seen:
                self._move(low, high)
            else:
                self.reset(low, high)

    def _move(self, low: Tensor, high: Tensor) -> None:
        torch.minimum(self.low, low, out=self.low)
        torch.maximum(self.high, high, out=self.high)

    def reset(self, low: Range, high: Range) -> None:
        """Go on from this range."""
        for name, end in (("low", low), ("high", high)):
            own = getattr(self, name)
            given = torch.as_tensor(end, dtype=own.dtype, device=own.device)
            if own.shape == given.shape:
                own.copy_(given)
            else:
                setattr(self, name, given.clone())
        self._seen = True

    def merge(self, other: MinMaxObserver) -> None:
        """Widen the range to what another observer has seen."""
        if not other.empty:
            self._move(other.low, other.high) if self._seen else self.reset(other.low, other.high)

    def clip(self, levels: int, signed: bool) -> Range:
        """The largest magnitude seen, or the largest value; 0-d or per channel."""
        return torch.maximum(-self.low, self.high) if signed else self.high.clamp(min=0)

    def range(self, steps: int) -> tuple[Range, Range]:
        """What was seen, widened to hold 0."""
        return self.low.clamp(max=0), self.high.clamp(min=0)

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any, **kwargs: Any) -> None:
        for name in ("low", "high"):
            own, given = getattr(self, name), state_dict.get(prefix + name)
            if given is not None and own.shape != given.shape:
                setattr(self, name, torch.empty_like(given, dtype=own.dtype, device=own.device))
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)
        self._seen = not self.low.is_meta and bool((self.low <= self.high).all())
