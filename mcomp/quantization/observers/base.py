"""What every observer offers."""

from __future__ import annotations

from abc import abstractmethod

from torch import Tensor, nn

Range = float | Tensor


class Observer(nn.Module):
    """Watches tensors go by and answers with a clip range. It never keeps a tensor."""

    @property
    @abstractmethod
    def empty(self) -> bool:
        """Whether nothing was seen yet."""

    @abstractmethod
    def update(self, x: Tensor, name: str = "") -> None:
        """Take note of ``x``; ``name`` is for the message.

        Raises:
            StageError: ``x`` holds inf or nan; nothing is noted then.
        """

    @abstractmethod
    def clip(self, levels: int, signed: bool) -> Range:
        """The largest magnitude that a symmetric grid with ``levels`` positive levels should represent."""

    @abstractmethod
    def range(self, steps: int) -> tuple[Range, Range]:
        """Both ends, 0 between them, of an asymmetric grid with ``steps`` steps from one end to the other."""

    def reset(self, low: Range, high: Range) -> None:
        """Go on from this range, where the observer keeps one."""

    def forward(self, x: Tensor) -> Tensor:
        """Update with ``x`` and pass it on."""
        self.update(x)
        return x
