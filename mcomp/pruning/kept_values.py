"""A forward may write into its weights; the person's own must be what they were before."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

from torch import Tensor
from torch.utils._pytree import tree_leaves


class KeptValues:
    """What some tensors held before anything was written into them."""

    def __init__(self, tensors: Iterable[Tensor]) -> None:
        self._before = [(tensor, tensor.data) for tensor in tensors]
        self._owners: dict[int, list[Tensor]] = {}
        for tensor, _ in self._before:
            self._owners.setdefault(_storage(tensor), []).append(tensor)
        self._saved: dict[int, list[tuple[Tensor, Tensor]]] = {}

    @property
    def written(self) -> bool:
        """Whether something was written."""
        return bool(self._saved) or any(_storage(tensor) != _storage(data) for tensor, data in self._before)

    def save(self, tensor: Tensor) -> None:
        """``tensor``, which may be a view of one of them, is about to be written into."""
        storage = _storage(tensor)
        if storage in self._owners and storage not in self._saved:
            self._saved[storage] = [(owner, owner.data.clone()) for owner in self._owners[storage]]

    def restore(self) -> None:
        """Put it back."""
        for tensor, data in self._before:
            if _storage(tensor) != _storage(data):  # given another storage: `weight.data = ...`
                tensor.data = data
        for saved in self._saved.values():
            for owner, values in saved:
                if not owner.is_meta:
                    owner.data.copy_(values)


_KEPT: ContextVar[tuple[KeptValues, ...]] = ContextVar("_KEPT", default=())


@contextmanager
def kept_values(tensors: Iterable[Tensor]) -> Iterator[KeptValues]:
    """At the end of the block the tensors hold what they held before, whatever the ops of a trace or check wrote."""
    kept = KeptValues(tensors)
    token = _KEPT.set((*_KEPT.get(), kept))
    try:
        yield kept
    finally:
        _KEPT.reset(token)
        kept.restore()


def before_writing(func: Any, args: Any, kwargs: Any) -> None:
    """An op is about to run: save what it writes into, where that is to be kept."""
    places, names = _written(func)
    if not places and not names:
        return
    given = [args[place] for place in places if place < len(args)] + [kwargs[name] for name in names if name in kwargs]
    for tensor in tree_leaves(given):
        if isinstance(tensor, Tensor):
            for kept in _KEPT.get():
                kept.save(tensor)


@functools.lru_cache(maxsize=4096)
def _written(func: Any) -> tuple[tuple[int, ...], tuple[str, ...]]:
    """Positions and names of the arguments that an op writes into."""
    arguments = func._schema.arguments
    places = [place for place, one in enumerate(arguments) if one.alias_info is not None and one.alias_info.is_write]
    return tuple(places), tuple(arguments[place].name for place in places)


def _storage(tensor: Tensor) -> int:
    return int(tensor.untyped_storage()._cdata)
