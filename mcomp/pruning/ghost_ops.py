"""The commonest ops on tensors without values, by shape arithmetic: PyTorch's own way goes through Python for each.

What is left out here, PyTorch computes. A width that does not fit raises, as the op itself would.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

#: Takes the arguments; None where PyTorch has to be asked.
Shortcut = Callable[[Sequence[Any]], Any]

_UNARY = ("relu", "sigmoid", "silu", "hardswish", "hardsigmoid", "hardtanh", "gelu", "tanh", "leaky_relu", "clone")
_BINARY = ("add", "sub", "mul", "div")


def ghost_result(name: str, args: Sequence[Any], kwargs: dict[str, Any]) -> Any:
    """The result of an op on meta tensors; None where there is no short way."""
    shortcut = _SHORTCUTS.get(name)
    if shortcut is None or kwargs or not isinstance(args[0], Tensor) or not args[0].is_meta:
        return None
    return shortcut(args)


def _unary(args: Sequence[Any]) -> Tensor:
    return torch.empty_like(args[0])


def _in_place(args: Sequence[Any]) -> Tensor:
    found: Tensor = args[0]
    return found


def _binary(args: Sequence[Any]) -> Tensor | None:
    left, right = args[0], args[1]
    if not isinstance(right, Tensor):
        return torch.empty_like(left) if left.is_floating_point() else None
    if left.dtype != right.dtype or not right.is_meta:
        return None
    if left.shape == right.shape:
        return torch.empty_like(left)
    shape = torch.broadcast_shapes(left.shape, right.shape)  # type: ignore[no-untyped-call]
    return torch.empty_like(left) if shape == left.shape else None


def _batch_norm(args: Sequence[Any]) -> tuple[Tensor, Tensor, Tensor] | None:
    x, vectors, training = args[0], args[1:5], args[5]
    if training:
        return None
    for vector in vectors:
        if vector is not None and vector.numel() != x.shape[1]:
            raise RuntimeError(f"a batch norm of {vector.numel()} channels meets {x.shape[1]}")
    return torch.empty_like(x), x.new_empty(0), x.new_empty(0)


def _convolution(args: Sequence[Any]) -> Tensor | None:
    x, weight, bias, stride, padding, dilation, transposed, _more, groups = args[:9]
    if transposed or not weight.is_meta or x.ndim != weight.ndim:
        return None
    if x.shape[1] != weight.shape[1] * groups or weight.shape[0] % groups:
        raise RuntimeError(f"a convolution of {tuple(weight.shape)} in {groups} groups meets {x.shape[1]} channels")
    if bias is not None and len(bias) != weight.shape[0]:
        raise RuntimeError(f"a bias of {len(bias)} meets {weight.shape[0]} channels")
    size = [x.shape[0], weight.shape[0]]
    for place, (length, kernel) in enumerate(zip(x.shape[2:], weight.shape[2:], strict=True)):
        s, p, d = (option[place if len(option) > 1 else 0] for option in (stride, padding, dilation))
        size.append((length + 2 * p - d * (kernel - 1) - 1) // s + 1)
    if min(size) < 1:
        return None
    last = x.ndim == 4 and not x.is_contiguous() and x.is_contiguous(memory_format=torch.channels_last)
    layout = torch.channels_last if last else torch.contiguous_format
    return torch.empty(size, dtype=x.dtype, device="meta", memory_format=layout)


_SHORTCUTS: dict[str, Shortcut] = {
    **dict.fromkeys(_UNARY, _unary),
    **{f"{name}_": _in_place for name in _UNARY},
    **dict.fromkeys(_BINARY, _binary),
    "native_batch_norm": _batch_norm,
    "convolution": _convolution,
}
