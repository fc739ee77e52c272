"""How much memory the activations of one sample need, from the order of operations alone."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


@dataclass(frozen=True)
class _Step:
    """One operation: where it stands, the memories it reads and makes, and which of them could lie over an operand."""

    place: str
    touched: frozenset[int]
    over_operand: int | None


class ActivationMemory(TorchDispatchMode):
    """Watches one pass, and says how large the activations were that had to be there at the same time.

    An activation is what was computed from the inputs, the inputs among it; parameters, buffers and what is made of
    them alone are none. It is there from the operation that makes it to the last that reads it, an output to the end:
    the least that any runtime without fusing can do with, whenever Python lets go of it. Views are one memory. An
    operation that works element by element (a norm in eval mode too) writes over an operand that nobody reads after
    it, whether the module says ``inplace`` or not. What nobody ever reads (the indices of a max pooling) is not made.

    Args:
        inputs: what the pass is given, nested as it likes.
        bits: of a floating-point activation; as many as it has where None. Integers keep theirs.
        place: asked at every operation where the pass stands.
    """

    def __init__(self, inputs: Any, bits: int | None, place: Callable[[], str]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._bits, self._place = bits, place
        self._held: dict[int, tuple[Tensor, int]] = {}  # a tensor of each memory, so that no address comes twice
        self._steps: list[_Step] = []
        given = frozenset(self._added(tree_leaves(inputs)))
        self._steps.append(_Step("", given, None))

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        operands = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        read = {memory for leaf in operands if (memory := address(leaf)) in self._held}
        out = func(*args, **kwargs)
        if not read:
            return out
        made = self._added(tree_leaves(out))
        result = None
        if _elementwise(func):  # a norm gives statistics too, beside what it is for
            result = max(made - read, key=lambda memory: self._held[memory][1], default=None)
        self._steps.append(_Step(self._place(), frozenset(read | made), result))
        return out

    def finish(self, outputs: Any) -> dict[str, int]:
        """The largest number of bytes at any operation of each place; the inputs alone are at ``""``.

        Args:
            outputs: what the pass returned; it lasts to the end.
        """
        first: dict[int, int] = {}
        last: dict[int, int] = {}
        for index, step in enumerate(self._steps):
            last.update(dict.fromkeys(step.touched, index))
            for memory in step.touched:
                first.setdefault(memory, index)
        kept = {address(leaf) for leaf in tree_leaves(outputs) if isinstance(leaf, Tensor)}
        last.update(dict.fromkeys(kept & last.keys(), len(self._steps)))
        peaks: dict[str, int] = defaultdict(int)
        alive: set[int] = set()
        for index, step in enumerate(self._steps):
            before = alive & step.touched
            alive |= {memory for memory in step.touched if last[memory] > first[memory]}
            room = sum(self._held[memory][1] for memory in alive)
            if step.over_operand in alive:
                size = self._held[step.over_operand][1]
                if any(last[memory] == index and self._held[memory][1] == size for memory in before):
                    room -= size
            peaks[step.place] = max(peaks[step.place], room)
            alive -= {memory for memory in step.touched if last[memory] == index}
        return dict(peaks)

    def _added(self, leaves: Iterable[Any]) -> set[int]:
        found = set()
        for leaf in leaves:
            if isinstance(leaf, Tensor) and leaf.layout == torch.strided and leaf.untyped_storage().nbytes():
                memory = address(leaf)
                self._held.setdefault(memory, (leaf.detach(), self._size(leaf)))
                found.add(memory)
        return found

    def _size(self, tensor: Tensor) -> int:
        """Bytes of a tensor's memory, rounded up."""
        elements = tensor.untyped_storage().nbytes() // tensor.element_size()
        given = self._bits if tensor.is_floating_point() else None
        return -(-elements * (8 * tensor.element_size() if given is None else given) // 8)


def address(tensor: Tensor) -> int:
    """What tells one memory from another, views of it being the same; good while the tensor lives."""
    return int(tensor.untyped_storage()._cdata)


def _elementwise(func: Any) -> bool:
    return torch.Tag.pointwise in func.tags or "batch_norm" in func.name()
