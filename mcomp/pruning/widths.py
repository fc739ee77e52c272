"""Numbers in the person's own code that hold a width: found by trying, kept where the code then goes further.

``self.hidden_dim`` that a forward writes into a view has to follow when the network is cut. Which attribute it is
nobody says; an integer that equals a width in the very module that fails is tried, in all modules of that class.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase

from mcomp.pruning.attention import PrunableAttention
from mcomp.pruning.channel_groups import ChannelGroups
from mcomp.pruning.channel_surgery import Width
from mcomp.pruning.labels import varies
from mcomp.pruning.tracing import Operation, Trace

#: A class of modules, and the attribute of theirs that holds a width.
Rule = tuple[type[nn.Module], str]

_BARE_NORMS: dict[type[nn.Module], str] = {
    _NormBase: "num_features",
    nn.GroupNorm: "num_channels",
    nn.LayerNorm: "normalized_shape",
    nn.RMSNorm: "normalized_shape",
}


@dataclass
class WidthRules:
    """Which attributes follow the widths, for one network at given counts.

    Attributes:
        groups: of the network.
        counts: group to kept channels.
    """

    groups: ChannelGroups
    counts: dict[str, int]
    _local: dict[str, dict[int, int]] = field(default_factory=dict)

    @cached_property
    def _share(self) -> Tensor:
        return shares(self.groups, self.counts)

    def changes(self, rules: list[Rule]) -> list[Width]:
        """What the attributes of ``rules`` become, in every module that has them."""
        found = []
        for path, module in self.groups.trace.subject.named_modules():
            for cls, name in [*rules, *self._standing(module)]:
                if type(module) is cls:
                    value = self._new(path, getattr(module, name, None))
                    if value is not None:
                        found.append(Width(path, name, value))
        return found

    def _standing(self, module: nn.Module) -> list[Rule]:
        """Attributes of PyTorch's own modules that no parameter of theirs tells of."""
        bare = not list(module.parameters(recurse=False)) and not list(module.buffers(recurse=False))
        if isinstance(module, PrunableAttention) and self.groups.trace.heads == "whole":
            return [(type(module), "num_heads")]
        return [(type(module), name) for cls, name in _BARE_NORMS.items() if bare and isinstance(module, cls)]

    def candidates(self, failed: str) -> list[Rule]:
        """Attributes of the module that failed, and of those around it, that equal a width which changes there."""
        model, found = self.groups.trace.subject, dict[Rule, None]()
        for path in _upwards(failed):
            module = model.get_submodule(path)
            if _follows_its_weights(module):
                continue
            for name, held in vars(module).items():
                if not name.startswith("_") and self._new(path, held, failed) is not None:
                    found[(type(module), name)] = None
        return list(found)

    def head_rules(self) -> list[Rule]:
        """Attributes that count the heads, where whole heads go: a code that is not told makes the rest narrower."""
        if self.groups.trace.heads == "dims":
            return []
        found: dict[Rule, None] = {}
        for path, module in self.groups.trace.subject.named_modules():
            if _follows_its_weights(module):
                continue
            for name, held in vars(module).items():
                if "head" in name and type(held) is int and self._new(path, held) is not None:
                    found[(type(module), name)] = None
        return list(found)

    def _new(self, path: str, held: object, failed: str | None = None) -> int | list[int] | None:
        """What an attribute becomes; None where it holds no width that changes."""
        widths = self._widths(path) | ({} if failed is None else self._widths(failed))
        if isinstance(held, bool):
            return None
        if isinstance(held, int):
            return widths.get(held)
        if isinstance(held, list | tuple) and held and all(type(item) is int for item in held):
            items: list[int] = list(held)
            made = [widths.get(item, item) for item in items]
            return made if made != items else None
        return None

    def _widths(self, path: str) -> dict[int, int]:
        """Old width to new one, as ops of this module met them, and what it handed on to the modules inside it."""
        if path not in self._local:
            handed_on = [one for name, found in self._children.get(path, {}).items() for one in found if name]
            self._local[path] = self._met(handed_on) | self._met(self._operations(path))
        return self._local[path]

    def _met(self, operations: list[Operation]) -> dict[int, int]:
        met: dict[int, Counter[int]] = {}
        for operation in operations:
            for labels in operation.labels:
                for old, new in _changes(labels, self._share, self.groups.trace):
                    met.setdefault(old, Counter())[new] += 1
        return {old: seen.most_common(1)[0][0] for old, seen in met.items()}

    @cached_property
    def _children(self) -> dict[str, dict[str, list[Operation]]]:
        """What the modules directly inside each module do."""
        found: dict[str, dict[str, list[Operation]]] = {}
        for module, operations in self.groups.trace.by_module.items():
            found.setdefault(module.rpartition(".")[0], {})[module] = operations
        return found

    def _operations(self, path: str) -> list[Operation]:
        """What a module does itself; of one that only calls others, what those do."""
        trace = self.groups.trace
        return trace.by_module.get(path) or trace.inside(path)


def shares(groups: ChannelGroups, counts: dict[str, int]) -> Tensor:
    """``[labels]`` the share of each class's group that stays."""
    share = torch.ones(len(groups.trace.classes), dtype=torch.float64)
    for group in groups:
        kept = counts.get(group.name, group.channels)
        share[group.classes] = kept / group.channels
    return share


def _changes(labels: Tensor, share: Tensor, trace: Trace) -> Iterator[tuple[int, int]]:
    dims = [dim for dim in range(labels.ndim) if varies(labels, dim)]
    if len(dims) > 1:  # heads, and the channels of each: only one of them changes
        steps = {dim: int(abs(_line(labels, dim)[1] - _line(labels, dim)[0])) for dim in dims}
        inner = min(dims, key=lambda dim: steps[dim])
        dims = [dim for dim in dims if (dim == inner) == (trace.heads == "dims")]
    for dim in dims:
        kept = float(share[trace.classes[_line(labels, dim)]].sum())
        if abs(kept - round(kept)) < 1e-6 and round(kept) != labels.shape[dim]:
            yield labels.shape[dim], round(kept)


def _line(labels: Tensor, dim: int) -> Tensor:
    for other in range(labels.ndim):
        if other != dim:
            labels = labels.narrow(other, 0, 1)
    return labels.flatten()


def _follows_its_weights(module: nn.Module) -> bool:
    """Whether it is one of PyTorch's layers: what these say of their widths is brought in line with their weights."""
    own = any(True for _ in module.parameters(recurse=False))
    return own and type(module).__module__.startswith(("torch.nn.", "mcomp."))


def _upwards(path: str) -> Iterator[str]:
    yield path
    while path:
        path = path.rpartition(".")[0]
        yield path
