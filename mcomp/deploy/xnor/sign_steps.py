"""What is done to signs between floats: packing into bits, pooling, and several steps in one call."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mcomp.deploy.xnor.extension import Chain, InstructionPath, Size, extension
from mcomp.deploy.xnor.filters import WORD
from mcomp.deploy.xnor.refusals import refuse_input, refuse_moved, refuse_small

#: Sizes of image whose chains are kept.
_KEPT = 8


class SignStep(nn.Module):
    """Base of modules that run compiled steps, prepared once per size of image.

    Packed signs are int32 ``(N, H, W, words)``: bit ``c % 32`` of word ``c // 32`` is set where channel c is +1; the
    channels of each group start on a word.

    Args:
        path: which loops to take.
    """

    def __init__(self, path: InstructionPath = "auto") -> None:
        super().__init__()
        self.path = path
        self._chains: dict[tuple[Size, bool], Chain] = {}
        self.register_load_state_dict_post_hook(_forget)  # type: ignore[no-untyped-call]

    @property
    def reads_floats(self) -> bool:
        """Whether floats come in, and not packed signs."""
        return False

    @property
    def float_channels(self) -> int:
        """Of the floats that come in; 0 where packed signs do."""
        return 0

    def add_to(self, chain: Chain, size: Size, channels_last: bool) -> Size:
        """Add what this module does to ``chain``, for images of ``size``; returns the size that it makes of them.

        ``channels_last`` is the memory format of floats that come in.

        Raises:
            UsageError: MC621, no window fits on the image.
        """
        raise NotImplementedError

    def run(self, x: Tensor) -> Tensor:
        """What the steps make of ``(N, C, H, W)`` floats or of packed signs.

        Raises:
            UsageError: MC621, another type or device, other dimensions or channels, a gradient is asked for, or no
                window fits on the image.
        """
        floats = self.reads_floats
        refuse_input(x, torch.float32 if floats else torch.int32, self.float_channels)
        size = (x.shape[2], x.shape[3]) if floats else (x.shape[1], x.shape[2])
        last = floats and not x.is_contiguous() and x.is_contiguous(memory_format=torch.channels_last)
        chain = self._chains.get((size, last))
        if chain is None:
            if len(self._chains) >= _KEPT:
                self.forget()
            refuse_moved(self)
            chain = extension().Chain(self.path)
            self.add_to(chain, size, last)
            self._chains[size, last] = chain
        return chain.run(x.detach())

    def forget(self) -> None:
        """Prepare anew: something changed."""
        self._chains.clear()

    def _apply(self, fn: Any, recurse: bool = True) -> Any:
        self.forget()  # tensors move
        return super()._apply(fn, recurse)  # type: ignore[no-untyped-call]

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_chains": {}}


class SignPacking(SignStep):
    """Floats to packed signs, of what a batch norm, say, would make of them.

    Args:
        channels: of the floats.
        groups: of the layer that reads them.
        threshold: float32 ``[channels]``: from where on the sign is +1; 0 when left out,
        flip: bool ``[channels]``: or -1, where this says so.
        path: which loops to take.

    Shape:
        ``(N, C, H, W)`` to packed signs.
    """

    threshold: Tensor | None
    flip: Tensor | None

    def __init__(
        self,
        channels: int,
        groups: int = 1,
        threshold: Tensor | None = None,
        flip: Tensor | None = None,
        path: InstructionPath = "auto",
    ) -> None:
        super().__init__(path)
        self.channels, self.groups = channels, groups
        self.register_buffer("threshold", threshold)
        self.register_buffer("flip", None if flip is None else _as_words(flip, groups))

    @property
    def reads_floats(self) -> bool:
        """Always."""
        return True

    @property
    def float_channels(self) -> int:
        """All of them."""
        return self.channels

    def add_to(self, chain: Chain, size: Size, channels_last: bool) -> Size:
        """The packing."""
        chain.pack(self.channels, self.groups, self.threshold, self.flip)
        return size

    def forward(self, x: Tensor) -> Tensor:
        """The packed signs."""
        return self.run(x)


class SignMaxPool2d(SignStep):
    """Max pooling of packed signs: +1 where a window holds one.

    Shape:
        packed signs to packed signs.
    """

    def __init__(self, pool: nn.MaxPool2d) -> None:
        super().__init__()
        sides = [_both(side) for side in (pool.kernel_size, pool.stride, pool.padding, pool.dilation)]
        self.kernel, self.stride, self.padding, self.dilation = sides

    def add_to(self, chain: Chain, size: Size, channels_last: bool) -> Size:
        """The pooling."""
        reach = [step * (side - 1) + 1 for step, side in zip(self.dilation, self.kernel, strict=True)]
        refuse_small(size, (reach[0] - 2 * self.padding[0], reach[1] - 2 * self.padding[1]))
        rows, columns = ((size[dim] + 2 * self.padding[dim] - reach[dim]) // self.stride[dim] + 1 for dim in (0, 1))
        chain.pool(self.kernel, self.stride, self.padding, self.dilation, (rows, columns))
        return rows, columns

    def forward(self, packed: Tensor) -> Tensor:
        """The pooled signs."""
        return self.run(packed)


class SignChain(SignStep):
    """Several steps in one call, for the signs between them are nobody else's.

    Args:
        steps: in their order.
        path: which loops to take.

    Shape:
        of the first step's input to the last one's output.
    """

    def __init__(self, steps: Sequence[SignStep], path: InstructionPath = "auto") -> None:
        super().__init__(path)
        self.steps = nn.ModuleList(steps)

    @property
    def reads_floats(self) -> bool:
        """Whether its first step does."""
        return bool(self.steps[0].reads_floats)

    @property
    def float_channels(self) -> int:
        """Of its first step."""
        return int(self.steps[0].float_channels)  # type: ignore[arg-type]

    def add_to(self, chain: Chain, size: Size, channels_last: bool) -> Size:
        """All of them."""
        for step in self.steps:
            assert isinstance(step, SignStep)
            size = step.add_to(chain, size, channels_last)
        return size

    def forward(self, x: Tensor) -> Tensor:
        """What the last step makes."""
        return self.run(x)


def _as_words(bits: Tensor, groups: int) -> Tensor:
    """Bools ``[channels]`` as int32 ``[words]``, packed as signs are."""
    rows = bits.view(groups, -1)
    found = (F.pad(rows, (0, -rows.shape[1] % WORD)).reshape(-1, WORD).long() << torch.arange(WORD)).sum(1)
    return torch.where(found >= 1 << (WORD - 1), found - (1 << WORD), found).to(torch.int32)


def _both(side: Any) -> Size:
    return (int(side), int(side)) if isinstance(side, int) else (int(side[0]), int(side[1]))


def _forget(step: SignStep, _keys: Any) -> None:
    step.forget()
