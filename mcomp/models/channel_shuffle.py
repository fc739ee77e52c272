"""The channel shuffle between group convolutions (Zhang et al., "ShuffleNet", arXiv:1707.01083)."""

from __future__ import annotations

from torch import Tensor, nn


class ChannelShuffle(nn.Module):
    """Interleave the channels of ``groups`` groups, so that the next group convolution sees all of them.

    Channel ``g * n + i`` moves to ``i * groups + g``, with ``n`` channels per group. Sizes are read from the
    input: the module has no width of its own and survives pruning.

    Shape:
        ``(N, C, H, W)`` to the same shape; C is divisible by ``groups``.
    """

    def __init__(self, groups: int) -> None:
        super().__init__()
        self.groups = groups

    def forward(self, x: Tensor) -> Tensor:
        """Shuffle ``x``."""
        n, c, h, w = x.size(0), x.size(1), x.size(2), x.size(3)
        return x.view(n, self.groups, c // self.groups, h, w).transpose(1, 2).reshape(n, c, h, w)

    def extra_repr(self) -> str:
        """What ``print(model)`` shows."""
        return f"groups={self.groups}"
