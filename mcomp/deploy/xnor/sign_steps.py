"""What is done to signs between floats: packing into bits, pooling, and several steps in one call."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mcomp.deploy.xnor.extension import Chain, InstructionPath, Size, extension
from mcomp.deploy.xnor.filters import WORD
from mcomp.errors import UsageError

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

    def add_to(self, chain: Chain, size: Size, channels_last: bool) -> Size:
        """Add what this module does to ``chain``, for images of ``size``; returns the size that it makes of them.

        ``channels_last`` is the memory format of floats that come in.
        """
        raise NotImplementedError

    def run(self, x: Tensor) -> Tensor:
        """What the steps make of ``(N, C, H, W)`` floats or of packed signs.

        Raises:
            UsageError: MC621, another type, device or number of dimensions, or a gradient is asked for.
        """
        floats = self.reads_floats
        _refuse(x, torch.float32 if floats else torch.int32)
        size = (x.shape[2], x.shape[3]) if floats else (x.shape[1], x.shape[2])
        last = floats and not x.is_contiguous() and x.is_contiguous(memory_format=torch.channels_last)
        chain = self._chains.get((size, last))
        if chain is None:
            if len(self._chains) >= _KEPT:
                self.forget()
            _refuse_moved(self)
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
        self, groups: int, threshold: Tensor | None = None, flip: Tensor | None = None, path: InstructionPath = "auto"
    ) -> None:
        super().__init__(path)
        self.groups = groups
        self.register_buffer("threshold", threshold)
        self.register_buffer("flip", None if flip is None else _as_words(flip, groups))

    @property
    def reads_floats(self) -> bool:
        """Always."""
        return True

    def add_to(self, chain: Chain, size: Size, channels_last: bool) -> Size:
        """The packing."""
        chain.pack(self.groups, self.threshold, self.flip)
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
        rows, columns = (
            (size[dim] + 2 * self.padding[dim] - self.dilation[dim] * (self.kernel[dim] - 1) - 1) // self.stride[dim]
            + 1
            for dim in (0, 1)
        )
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


def _refuse_moved(step: SignStep) -> None:
    """Compiled loops would read whatever lies there."""
    for name, tensor in step.named_buffers():
        if tensor.device.type != "cpu" or (tensor.is_floating_point() and tensor.dtype != torch.float32):
            kind = str(tensor.dtype).removeprefix("torch.")
            raise UsageError(
                f"`{name}` of a layer that counts bits is a {kind} tensor on `{tensor.device}`",
                code="MC621",
                why="its loops run on the CPU, with scales in float32",
                hint="do not move or convert an accelerated model",
            )


def _refuse(x: Tensor, dtype: torch.dtype) -> None:
    wrong = ""
    if x.dtype != dtype:
        wrong = f"{str(x.dtype).removeprefix('torch.')} tensor"
    elif x.device.type != "cpu":
        wrong = f"tensor on `{x.device}`"
    elif x.dim() != 4:
        wrong = f"tensor of {x.dim()} dimensions"
    elif x.requires_grad and torch.is_grad_enabled():
        wrong = "tensor that asks for a gradient"
    if wrong:
        raise UsageError(
            f"a layer that counts bits was given a {wrong}",
            code="MC621",
            why=f"its loops read batches in {str(dtype).removeprefix('torch.')} on the CPU, and know no backward pass",
            hint="call the model with float32 CPU tensors under `torch.inference_mode()`; train the simulated one",
        )
