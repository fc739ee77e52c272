"""Copies of a network's structure: what ``copy.deepcopy`` makes, module by module instead of value by value."""

from __future__ import annotations

import copy
import copyreg
import functools
import types
from collections import OrderedDict
from typing import Any

import torch
from torch import Tensor, nn

#: Types whose values need no copy.
_PLAIN = frozenset(
    {type(None), bool, int, float, str, complex, bytes, type, torch.dtype, torch.device, torch.Size}
    | {types.FunctionType, types.BuiltinFunctionType}
)

#: Containers that every module has, most of them empty; no two modules share one.
_OWN = frozenset(name for name, value in vars(nn.Module()).items() if isinstance(value, dict | set))


def structural_copy(model: nn.Module, memo: dict[int, Any]) -> nn.Module:
    """A deep copy of ``model``.

    A module whose class leaves copying to Python is taken apart here; whatever else there is ``copy.deepcopy`` copies.

    Args:
        model: to copy.
        memo: the identity of what is not to be copied, to what takes its place; it grows, as that of ``deepcopy`` does.
    """
    known = memo.get(id(model))
    if known is not None:
        return known  # type: ignore[no-any-return]
    cls: Any = type(model)
    state = model.__getstate__() if _leaves_it_to_python(cls) else None  # type: ignore[no-untyped-call]
    if type(state) is not dict:
        return copy.deepcopy(model, memo)
    made: nn.Module = object.__new__(cls)
    memo[id(model)] = made
    memo.setdefault(id(memo), []).append(state)  # as `deepcopy` does: an identity is one as long as its owner lives
    copied = {
        name: value if type(value) in _PLAIN else type(value)() if name in _OWN and not value else _copied(value, memo)
        for name, value in state.items()
    }
    made.__setstate__(copied)  # type: ignore[no-untyped-call]
    return made


def _copied(value: Any, memo: dict[int, Any]) -> Any:
    kind = type(value)
    if kind in _PLAIN or (kind is tuple and _PLAIN.issuperset(map(type, value))):
        return value
    made = memo.get(id(value))
    if made is not None:
        return made
    if kind is dict or kind is OrderedDict:
        made = memo[id(value)] = kind()
        for name, item in value.items():
            key = name if type(name) in _PLAIN else _copied(name, memo)
            made[key] = item if type(item) in _PLAIN else _copied(item, memo)
    elif kind is list:
        made = memo[id(value)] = []
        made += [_copied(item, memo) for item in value]
    elif kind is set and _PLAIN.issuperset(map(type, value)):
        made = memo[id(value)] = value.copy()
    elif isinstance(value, nn.Module):
        made = structural_copy(value, memo)
    elif kind is Tensor:
        made = memo[id(value)] = _copied_tensor(value, memo)
    else:
        made = copy.deepcopy(value, memo)
    return made


def _copied_tensor(value: Tensor, memo: dict[int, Any]) -> Any:
    """A tensor with a storage of its own; ``deepcopy`` notes storages, so that tensors which share one go on to."""
    simple = value.layout is torch.strided and value.device.type == "cpu" and not value.is_quantized
    if not simple or value.requires_grad or value.is_conj() or value.is_neg() or not value.is_contiguous():
        return copy.deepcopy(value, memo)
    storage, known = value.untyped_storage(), memo.setdefault("torch", {})  # type: ignore[call-overload]
    if storage._cdata in known or storage.nbytes() != value.nbytes or value.__dict__:
        return copy.deepcopy(value, memo)
    made = value.clone()
    known[storage._cdata] = made.untyped_storage()
    return made


@functools.lru_cache(maxsize=1024)
def _leaves_it_to_python(cls: Any) -> bool:
    """Whether a copy has the state of the original and nothing else, by what the class says of copying."""
    return (
        not hasattr(cls, "__deepcopy__")
        and cls not in copyreg.dispatch_table
        and all(getattr(cls, name) is getattr(object, name) for name in ("__reduce__", "__reduce_ex__", "__new__"))
        and not any(hasattr(cls, name) for name in ("__getnewargs__", "__getnewargs_ex__"))
    )
