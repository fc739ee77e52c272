"""Running loss and accuracy that wait for the device only when they are read."""

from __future__ import annotations

import math

import torch
from torch import Tensor


class Meter:
    """Mean loss and top-1 of the images seen so far in an epoch.

    ``add`` only queues small device tensors, so a step never waits for a GPU; ``read`` fetches what was queued. The
    sums do not depend on how often they are read.
    """

    def __init__(self, loss_sum: float = 0.0, correct: int = 0, seen: int = 0) -> None:
        self.loss_sum = loss_sum
        self.correct = correct
        self.seen = seen
        self._queue: list[tuple[Tensor, Tensor, int]] = []

    def add(self, loss: Tensor, outputs: Tensor, labels: Tensor) -> None:
        """Queue one step: mean loss (0-d), outputs ``(N, classes)``, labels ``(N,)``."""
        hits = (outputs.detach().argmax(1) == labels).sum()
        self._queue.append((loss.detach(), hits, len(labels)))

    def read(self) -> tuple[float, int] | None:
        """Fetch the queue; None, or the first loss that is no number and how many steps came after it."""
        if not self._queue:
            return None
        losses = torch.stack([loss.float() for loss, _, _ in self._queue]).tolist()
        hits = torch.stack([hit for _, hit, _ in self._queue]).tolist()
        sizes = [size for _, _, size in self._queue]
        self._queue.clear()
        for loss, hit, size in zip(losses, hits, sizes, strict=True):
            self.loss_sum += loss * size
            self.correct += hit
            self.seen += size
        broken = [index for index, loss in enumerate(losses) if not math.isfinite(loss)]
        return (losses[broken[0]], len(losses) - 1 - broken[0]) if broken else None

    @property
    def loss(self) -> float:
        """Mean loss per image of what was read so far."""
        return self.loss_sum / max(self.seen, 1)

    @property
    def top1(self) -> float:
        """Percent of the images read so far that were classified right."""
        return 100.0 * self.correct / max(self.seen, 1)

    def state(self) -> dict[str, float | int]:
        """The sums, for a snapshot; call :meth:`read` first."""
        return {"loss_sum": self.loss_sum, "correct": self.correct, "seen": self.seen}
