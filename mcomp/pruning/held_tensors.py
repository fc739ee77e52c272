"""The tensors inside whatever a network returns, or keeps on its modules."""

from __future__ import annotations

import gc
from collections.abc import Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from types import FunctionType, MethodType
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map

from mcomp.errors import StageError

#: Objects that are looked into at the most: what holds more is no answer of a network.
_MOST = 20_000


def output_tensors(results: Any) -> list[Tensor]:
    """Every tensor in what a network returned, in order, each once: in containers and in objects of any class.

    Raises:
        StageError: MC410, there is something that may hold tensors and cannot be looked into.
    """
    found, closed = _walk(results)
    if closed:
        raise StageError(
            f"the network returns {closed[0]}, in which tensors cannot be found",
            code="MC410",
            hint="return tensors, or tuples, lists, dicts or dataclasses of them; a module around the network can",
        )
    return found


def tensors_within(value: Any) -> list[Tensor]:
    """The tensors in ``value`` as far as it can be looked into."""
    return _walk(value)[0]


def copied_inputs(inputs: tuple[Any, ...]) -> tuple[Any, ...]:
    """The same with tensors of their own: a forward may write into what it is given."""
    found: tuple[Any, ...] = tree_map(lambda leaf: leaf.clone() if isinstance(leaf, Tensor) else leaf, inputs)
    return found


def _walk(root: Any) -> tuple[list[Tensor], list[str]]:
    """The tensors, and what could not be looked into, in words."""
    tensors: list[Tensor] = []
    closed: list[str] = []
    seen: dict[int, Any] = {}  # the objects too: an identity is one as long as its owner lives
    waiting = [root]
    while waiting:
        value = waiting.pop()
        if isinstance(value, Tensor):
            if id(value) not in seen:
                tensors.append(value)
        elif isinstance(value, np.ndarray) and value.dtype.kind in "fiub" and value.flags.writeable:
            tensors.append(torch.as_tensor(value))
        elif gc.is_tracked(value) and not isinstance(value, type | nn.Module) and id(value) not in seen:
            parts = _parts(value)
            if parts is None:
                closed.append(f"a `{type(value).__name__}`")
            elif len(seen) >= _MOST:
                return tensors, [f"more than {_MOST} objects"]
            else:
                waiting += reversed(list(parts))
        else:  # numbers and words, or met before
            continue
        seen[id(value)] = value
    return tensors, closed


def _parts(value: Any) -> Iterator[Any] | None:
    """What an object holds; None where that cannot be seen without changing it."""
    if isinstance(value, Mapping):
        return iter([*value.values(), *getattr(value, "__dict__", {}).values()])
    if isinstance(value, FunctionType):
        return None if value.__closure__ else iter(())
    if isinstance(value, MethodType):
        return iter((value.__self__,))
    if hasattr(value, "__next__"):  # to look would be to use it up
        return None
    if isinstance(value, Sequence | AbstractSet) and len(value) <= _MOST:
        return iter([*value, *getattr(value, "__dict__", {}).values()])
    slots = [name for cls in type(value).__mro__ for name in _names(cls.__dict__.get("__slots__", ()))]
    held = [getattr(value, name) for name in slots if name not in ("__dict__", "__weakref__") and hasattr(value, name)]
    if hasattr(value, "__dict__"):
        return iter([*held, *vars(value).values()])
    return iter(held) if slots else None


def _names(slots: Any) -> tuple[str, ...]:
    return (slots,) if isinstance(slots, str) else tuple(slots)
