"""Element-wise arithmetic piece by piece, so that a chain of passes over a large tensor runs in the cache."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

#: Elements of one piece: 1 MiB of float32. A few of those stay in the cache, and starting an operation costs little
#: beside one.
PIECE = 1 << 18
_DENSE = {4: torch.channels_last, 5: torch.channels_last_3d}

Work = Callable[[Tensor, Tensor], object]


def arithmetic_dtype(x: Tensor) -> torch.dtype:
    """float64 for float64; float32 for everything else, half precision included."""
    return torch.float64 if x.dtype == torch.float64 else torch.float32


def at_hand(x: Tensor) -> bool:
    """Whether a look at the values of ``x`` is for free: on the CPU, unless a graph is being compiled."""
    return x.device.type == "cpu" and not torch.compiler.is_compiling()


def elementwise(x: Tensor, work: Work) -> Tensor:
    """A tensor like ``x``, memory format included, that ``work(source, result)`` fills.

    ``source`` and ``result`` are matching pieces in float32 (float64 for float64); ``result`` may be
    ``source``'s own buffer, so ``work`` reads ``source`` once and first.
    """
    kind = arithmetic_dtype(x)
    result = torch.empty_like(x)
    if not at_hand(x) or x.numel() <= PIECE or x.stride() != result.stride():  # gaps are not copied
        _fill(x, result, kind, work)
        return result
    for source, target in zip(pieces(x), pieces(result), strict=True):
        _fill(source, target, kind, work)
    return result


def pieces(x: Tensor) -> Iterator[Tensor]:
    """Flat views that cover ``x`` in the order of memory; a tensor with gaps is one piece, as it is."""
    if x.is_contiguous():
        flat = x.view(-1)
    elif x.dim() in _DENSE and x.is_contiguous(memory_format=_DENSE[x.dim()]):
        flat = x.movedim(1, -1).view(-1)
    else:
        return iter((x,))
    return iter((flat,) if x.numel() <= PIECE else torch.split(flat, PIECE))


def matching(*tensors: Tensor) -> Iterator[tuple[Tensor, ...]]:
    """Pieces of tensors of one shape that cover the same elements; whole where memory is laid out differently."""
    first = tensors[0]
    if not at_hand(first) or any(each.stride() != first.stride() for each in tensors):
        return iter((tensors,))
    return zip(*(pieces(each) for each in tensors), strict=True)


def laid_out_like(x: Tensor, like: Tensor) -> Tensor:
    """``x``, or a copy of it, with the strides that ``torch.empty_like(like)`` has."""
    made = torch.empty_like(like, dtype=x.dtype) if x.stride() != like.stride() else x
    return x if made is x else made.copy_(x)


def gradient_buffer(grad: Tensor, like: Tensor, dtype: torch.dtype, spent: bool) -> tuple[Tensor, Tensor]:
    """``grad`` in the layout of ``like``, and where to write the gradient made of it, in ``dtype``.

    That is ``grad`` itself where nothing else reads it, which spares the largest part of the time that a weight takes:
    fetching a second buffer into the cache.

    Args:
        grad: upstream.
        like: a tensor in the layout of the operation's input.
        dtype: of that input.
        spent: whether the upstream gradient was made for this operation alone.
    """
    source = laid_out_like(grad, like)
    if (spent or source is not grad) and source.dtype == dtype and not torch.is_grad_enabled():
        return source, source
    return source, torch.empty_like(like, dtype=dtype)


def rows(x: Tensor, *others: Tensor) -> Iterator[tuple[Tensor, ...]]:
    """Matching views along axis 0 of tensors of as many rows, which fit the cache; one row at least."""
    if not at_hand(x) or x.numel() <= PIECE:
        return iter(((x, *others),))
    step = max(1, PIECE * x.shape[0] // x.numel())
    return zip(*(torch.split(each, step) for each in (x, *others)), strict=True)


def _fill(source: Tensor, target: Tensor, kind: torch.dtype, work: Work) -> None:
    if source.dtype == kind:
        work(source, target)
    else:
        own = source.to(kind)
        work(own, own)
        target.copy_(own)
