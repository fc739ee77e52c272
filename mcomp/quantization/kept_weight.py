"""A weight that is computed from others, and kept until they change."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

K = TypeVar("K", bound="KeptWeight")


class KeptWeight(nn.Module):
    """Base of layers that derive the weight they multiply with; the kept one is no part of their state."""

    _kept: tuple[Any, Tensor] | None = None

    def kept_weight(self, key: tuple[Any, ...], make: Callable[[], Tensor]) -> Tensor:
        """The weight of ``key``, made without a gradient when another key was asked for last."""
        if self._kept is None or self._kept[0] != key:
            # an inference tensor kept here would break a later backward pass
            with torch.inference_mode(False), torch.no_grad():
                self._kept = (key, make())
        return self._kept[1]

    def train(self: K, mode: bool = True) -> K:
        """Switch between training and eval, and forget the kept weight."""
        self._kept = None
        return super().train(mode)

    def __getstate__(self) -> dict[str, Any]:
        state = dict(self.__dict__)
        state.pop("_kept", None)
        return state
