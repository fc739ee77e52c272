"""The commonest ops on tensors without values, by shape arithmetic: PyTorch's own way goes through Python for each.

What is left out here, PyTorch computes. A width that does not fit raises, as the op itself would. Results are laid out
in memory as those of the CPU: what a view of them is depends on it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

#: Takes the arguments; None where PyTorch has to be asked.
Shortcut = Callable[[Sequence[Any]], Any]

_META = torch.device("meta")
_UNARY = ("relu", "sigmoid", "silu", "hardswish", "hardsigmoid", "hardtanh", "gelu", "tanh", "leaky_relu", "clone")
_BINARY = ("add", "sub", "mul", "div")


def ghost_result(name: str, args: Sequence[Any], kwargs: dict[str, Any]) -> Any:
    """The result of an op on meta tensors; None where there is no short way."""
    shortcut = _SHORTCUTS.get(name)
    if shortcut is None or kwargs or not args:
        return None
    first = args[0]
    if name == "cat":
        return _cat(first, args[1] if len(args) > 1 else 0)
    return shortcut(args) if isinstance(first, Tensor) and first.is_meta else None


def _empty(shape: Sequence[int], like: Tensor) -> Tensor:
    return torch.empty(shape, dtype=like.dtype, device=_META)


def _like(x: Tensor) -> Tensor:
    """What ``empty_like`` makes, which takes ten times as long."""
    return _empty(x.shape, x) if x.is_contiguous() else torch.empty_like(x)


def _unary(args: Sequence[Any]) -> Tensor | None:
    return _like(args[0]) if args[0].is_floating_point() else None


def _in_place(args: Sequence[Any]) -> Tensor:
    found: Tensor = args[0]
    return found


def _binary(args: Sequence[Any]) -> Tensor | None:
    left, right = args[0], args[1]
    if not isinstance(right, Tensor):
        return _like(left) if left.is_floating_point() else None
    if left.dtype != right.dtype or not right.is_meta or not left.is_floating_point():
        return None
    if left.shape == right.shape:
        return _like(left)
    shape = _broadcast(left.shape, right.shape)
    if shape == left.shape:
        return _like(left)
    return _empty(shape, left) if left.is_contiguous() and right.is_contiguous() else None


def _binary_in_place(args: Sequence[Any]) -> Tensor | None:
    left, right = args[0], args[1]
    if not left.is_floating_point():
        return None
    if isinstance(right, Tensor) and (not right.is_meta or _broadcast(left.shape, right.shape) != left.shape):
        return None
    return _in_place(args)


def _broadcast(left: Sequence[int], right: Sequence[int]) -> tuple[int, ...]:
    ndim = max(len(left), len(right))
    found = []
    for one, other in zip(
        (1,) * (ndim - len(left)) + tuple(left), (1,) * (ndim - len(right)) + tuple(right), strict=True
    ):
        if one != other and one != 1 and other != 1:
            raise RuntimeError(f"tensors of {tuple(left)} and of {tuple(right)} meet element by element")
        found.append(other if one == 1 else one)
    return tuple(found)


def _batch_norm(args: Sequence[Any]) -> tuple[Tensor, Tensor, Tensor]:
    x, vectors, training = args[0], args[1:5], args[5]
    for vector in vectors:
        if vector is not None and vector.numel() != x.shape[1]:
            raise RuntimeError(f"a batch norm of {vector.numel()} channels meets {x.shape[1]}")
    statistic = _empty((x.shape[1] if training else 0,), x)
    last = x.ndim == 5 or (x.ndim == 4 and x.is_contiguous(memory_format=torch.channels_last))
    return (_like(x) if last else _empty(x.shape, x)), statistic, _empty(statistic.shape, x)


def _layer_norm(args: Sequence[Any]) -> tuple[Tensor, Tensor, Tensor]:
    x, shape, weight, bias = args[:4]
    lead = x.ndim - len(shape)
    for vector in (shape, weight if weight is None else weight.shape, bias if bias is None else bias.shape):
        if vector is not None and tuple(vector) != tuple(x.shape[lead:]):
            raise RuntimeError(f"a layer norm of {tuple(vector)} meets {tuple(x.shape)}")
    statistic = (*x.shape[:lead], *[1] * len(shape))
    return _empty(x.shape, x), _empty(statistic, x), _empty(statistic, x)


def _softmax(args: Sequence[Any]) -> Tensor | None:
    x = args[0]
    plain = len(args) == 2 or args[2] is False or args[2] is None
    return _empty(x.shape, x) if plain and x.is_floating_point() and x.is_contiguous() else None


def _addmm(args: Sequence[Any]) -> Tensor | None:
    bias, left, right = args[:3]
    if bias.ndim != 1 or not left.is_meta or not right.is_meta:
        return None
    if len(bias) != right.shape[1]:
        raise RuntimeError(f"a bias of {len(bias)} meets a product of {right.shape[1]} columns")
    return _mm((left, right))


def _mm(args: Sequence[Any]) -> Tensor | None:
    left, right = args
    if left.dtype != right.dtype or not right.is_meta:
        return None
    if left.shape[-1] != right.shape[-2] or left.shape[:-2] != right.shape[:-2]:
        raise RuntimeError(f"a product of {tuple(left.shape)} and {tuple(right.shape)}")
    return _empty((*left.shape[:-1], right.shape[-1]), left)


def _mean(args: Sequence[Any]) -> Tensor | None:
    x, dims = args[0], args[1] if len(args) > 1 else None
    if not dims or isinstance(dims, int) or not x.is_floating_point() or not x.is_contiguous():
        return None
    gone = {dim % x.ndim for dim in dims}
    if len(args) > 2 and args[2]:
        return _empty([1 if dim in gone else size for dim, size in enumerate(x.shape)], x)
    return _empty([size for dim, size in enumerate(x.shape) if dim not in gone], x)


def _cat(tensors: Sequence[Tensor], dim: int) -> Tensor | None:
    first = tensors[0]
    shape = list(first.shape)
    if not shape or any(len(tensor.shape) != len(shape) or not tensor.is_meta for tensor in tensors):
        return None
    if any(tensor.dtype != first.dtype or not tensor.is_contiguous() for tensor in tensors):
        return None
    dim %= len(shape)
    shape[dim] = 0
    for tensor in tensors:
        found = list(tensor.shape)
        if found[:dim] != shape[:dim] or found[dim + 1 :] != shape[dim + 1 :]:
            return None
        shape[dim] += found[dim]
    return _empty(shape, first)


def _upsample(args: Sequence[Any]) -> Tensor | None:
    x, size = args[:2]
    if size is None or x.ndim != 2 + len(size) or not x.is_contiguous():
        return None
    return _empty((*x.shape[:2], *size), x)


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
    return torch.empty(size, dtype=x.dtype, device=_META, memory_format=layout)


_SHORTCUTS: dict[str, Shortcut] = {
    **dict.fromkeys(_UNARY, _unary),
    **{f"{name}_": _in_place for name in _UNARY},
    **dict.fromkeys(_BINARY, _binary),
    **{f"{name}_": _binary_in_place for name in _BINARY},
    "native_batch_norm": _batch_norm,
    "native_layer_norm": _layer_norm,
    "_softmax": _softmax,
    "_safe_softmax": _softmax,
    "addmm": _addmm,
    "mm": _mm,
    "bmm": _mm,
    "mean": _mean,
    "cat": _unary,
    "upsample_bilinear2d": _upsample,
    "upsample_nearest2d": _upsample,
    "convolution": _convolution,
}
