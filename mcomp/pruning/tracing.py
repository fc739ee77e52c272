"""Follow channel labels through one forward, under a dispatch mode, op by op."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from mcomp.pruning.flops import flops
from mcomp.pruning.held_tensors import output_tensors, tensors_within
from mcomp.pruning.labels import SETTLED, LabelSpace, Role, Site, distinct, lowest, narrowed, varies
from mcomp.pruning.notes import Notes, Weight
from mcomp.pruning.slots import Slots
from mcomp.pruning.value_free import compute, plain_number, taken_apart

# A parameter with more elements than this gets a label for each channel that it meets, not for each element.
_TABLE = 1 << 12

#: Attributes of every module in which a forward keeps no tensors; its buffers are not among them.
_OF_MODULES = frozenset(vars(nn.Module())) - {"_buffers"}
_PLAIN = (bool, int, float, str, type(None))

#: What goes at the least of an attention layer: single channels, as many of every head, or whole heads.
Heads = Literal["dims", "whole"]


@dataclass
class Operation:
    """One op of the forward.

    Attributes:
        name: of the op.
        module: that it ran in.
        labels: that reached it.
        factor: the number by which it multiplies, where it does just that.
        queries: where it multiplies scores of attention, the labels of the queries that they are of.
    """

    name: str
    module: str
    labels: list[Tensor]
    factor: float | None = None
    queries: Tensor | None = None


@dataclass
class Trace:
    """What one forward showed.

    Attributes:
        sites: every place that has a slot per channel, in order of first use.
        classes: ``[labels]`` class (smallest member) of each label.
        whole: class to the reason why it can't be pruned.
        operations: all ops, in order.
        gammas: names of batch-norm scale parameters.
        depthwise: names of convolution weights that take one input channel per group.
        outputs: shapes of the network's outputs.
        subject: the module that ran: a ghost without values, or where that could not run, the one that was given.
        inputs: what it ran on.
        heads: what goes at the least of an attention layer.
        trained: whether a second pass in train mode was followed as well.
        cut_short: the forward asked for values that a ghost does not have, after every parameter had been met.
        macs: multiply-accumulates of the pass in eval mode, for the whole batch.
        decisions: for each reduction, whether it is over channels.
        frozen: parameter to the reason why nothing may be cut from it.
        evaluated: how many of the ops are of the pass in eval mode; they come first.
        writes: whether the forward writes into parameters.
    """

    sites: dict[tuple[str, Role, int], Site]
    classes: Tensor
    whole: dict[int, str]
    operations: list[Operation]
    gammas: list[str]
    depthwise: frozenset[str]
    outputs: list[torch.Size]
    subject: nn.Module
    inputs: tuple[Tensor, ...]
    heads: Heads = "dims"
    trained: bool = False
    cut_short: bool = False
    macs: int = 0
    decisions: list[bool] = field(default_factory=list)
    frozen: dict[str, str] = field(default_factory=dict)
    evaluated: int = 0
    writes: bool = False

    @cached_property
    def slots(self) -> Slots:
        """Those of all sites."""
        return Slots.of(self.sites, self.classes)

    @cached_property
    def by_module(self) -> dict[str, list[Operation]]:
        """What each module does itself."""
        found: dict[str, list[Operation]] = {}
        for operation in self.operations:
            found.setdefault(operation.module, []).append(operation)
        return found

    def inside(self, path: str) -> list[Operation]:
        """What the modules inside one do; of the network, all that it does."""
        start = f"{path}." if path else ""
        return [one for module, found in self.by_module.items() if module.startswith(start) for one in found]


@dataclass
class _Seen:
    sites: dict[tuple[str, Role, int], Site] = field(default_factory=dict)
    frozen: dict[str, str] = field(default_factory=dict)
    gammas: dict[str, None] = field(default_factory=dict)
    depthwise: set[str] = field(default_factory=set)
    splits: Counter[str] = field(default_factory=Counter)
    products: Counter[str] = field(default_factory=Counter)
    flops: int = 0
    decisions: list[bool] = field(default_factory=list)
    operations: list[Operation] = field(default_factory=list)
    outputs: list[Tensor] = field(default_factory=list)
    evaluated: int = 0


class Tracer(Notes, TorchDispatchMode):  # type: ignore[no-untyped-call]  # torch publishes no types for these
    """Carries labels along while the ops of a forward run; :mod:`mcomp.pruning.rules` knows the ops."""

    def __init__(self, model: nn.Module, like: Trace | None, heads: Heads) -> None:
        Notes.__init__(self)
        TorchDispatchMode.__init__(self)  # type: ignore[no-untyped-call]
        self._like = like
        self._model = model
        self._follow = _rules()
        self.heads = heads
        self.space = LabelSpace()
        self.seen = _Seen()
        self.module = ""
        self.counts_factors = True
        self._of_parameters: list[tuple[int, int]] = []
        self._names, tied = _names(model)
        self._parameters = {self._names[id(parameter)] for parameter in model.parameters()}
        for name, reason in tied.items():
            self.freeze(name, reason)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        parts = taken_apart(self, func, args, kwargs)
        if parts is not NotImplemented:
            return parts
        tensors = _tensors(args, kwargs)
        tracked = [found for tensor in tensors if (found := self.carried(tensor)) is not None]
        factor = _factor(func, args) if self.counts_factors else None
        queries = self.queries(tensors[0]) if factor is not None and tensors else None
        self.seen.operations.append(Operation(str(func), self.module, tracked, factor, queries))
        out = self.compute(func, args, kwargs)
        self.seen.flops += flops(func, args, kwargs, out)
        self._follow(self, func, args, kwargs, tensors, out)
        return out

    def compute(self, func: Any, args: Any, kwargs: Any) -> Any:
        """The result of the op."""
        return compute(func, args, kwargs)

    def labels_of(self, tensor: Tensor) -> Tensor:
        """The labels of ``tensor``, in its shape."""
        found = self.carried(tensor)
        if found is not None and found.shape == tensor.shape:
            return found
        if found is not None:
            self.space.fix(found, f"a tensor changes its shape in place in `{self.module}`")
        name = self._names.get(id(tensor))
        if name is None:
            labels = self.space.opaque(tensor.shape, f"meets a tensor that `{self.module or 'forward'}` makes itself")
            self.mark(tensor, labels, compact=True)
            return labels
        key: tuple[str, Role, int] = (name, "values", -1)
        if key not in self.seen.sites:
            self._values(name, tensor, [True] * tensor.ndim)
        return self.seen.sites[key].labels

    def is_new_table(self, tensor: Tensor) -> bool:
        """Whether it is a large parameter that no op has used element by element yet."""
        name = self._names.get(id(tensor)) if tensor.numel() > _TABLE else None
        return name is not None and (name, "values", -1) not in self.seen.sites and self.carried(tensor) is None

    def adopt(self, tensor: Tensor, varying: Sequence[bool]) -> None:
        """A parameter of which only some dimensions hold channels; elements along the others stay together."""
        self._values(self._names[id(tensor)], tensor, varying)

    def _values(self, name: str, tensor: Tensor, varying: Sequence[bool]) -> None:
        shape = [size if varies_there else 1 for size, varies_there in zip(tensor.shape, varying, strict=True)]
        labels = self.fresh_values(name, tensor, shape)
        self.seen.sites[(name, "values", -1)] = Site(name, "values", -1, labels, operation=self._operation)

    def fresh_values(self, name: str, tensor: Tensor, shape: list[int]) -> Tensor:
        """Labels in the shape of a parameter, one for each element of ``shape``."""
        start = self.space.size
        labels = self.space.fresh(torch.Size(shape).numel())
        self._of_parameters.append((start, self.space.size))
        return labels.reshape(shape).expand(tensor.shape)

    def settled(self, labels: Tensor) -> bool:
        """Whether this is of no channel."""
        found = narrowed(labels)
        return bool((found == SETTLED).all())

    def of_parameters(self, labels: Tensor) -> bool:
        """Whether these labels are of parameters alone that were used element by element, or of nothing."""
        found = narrowed(labels)
        inside = found <= SETTLED
        for start, stop in self._of_parameters:
            inside |= found.ge(start) & found.lt(stop)
        return bool(inside.all())

    def in_groups(self, vector: Tensor, groups: int) -> None:
        """The elements of this parameter fall into groups, and each keeps as many."""
        weight = self.weight(vector)
        site = None if weight is None else self.seen.sites.get((weight.name, "values", -1))
        if site is not None:
            site.groups = groups

    def shares(self, labels: Tensor, groups: int) -> None:
        """Note that these channels fall into so many groups, of which each keeps as many."""
        key = f"#product {self.module}.{self.seen.products[self.module]}"
        self.seen.products[self.module] += 1
        labels = labels.flatten()
        if bool((labels > SETTLED).all()):
            self.seen.sites[(key, "piece", 0)] = Site(key, "piece", 0, labels, groups, self._operation)

    def labels_before(self, args: Any, func: Any) -> Tensor | None:
        """What an op that writes into a part of another tensor finds there."""
        if not func._schema.is_mutable or not args or not isinstance(args[0], Tensor) or not args[0]._is_view():
            return None
        return self.labels_of(args[0])

    def check_written(self, before: Tensor | None, args: Any) -> None:
        """Channels that were written into a part of another tensor cannot be followed through that one."""
        if before is not None and not torch.equal(after := self.labels_of(args[0]), before):
            self.space.fix(after, f"is written into a part of another tensor in `{self.module or 'forward'}`")
            self.space.fix(before, f"is overwritten in part in `{self.module or 'forward'}`")

    def enter(self, inputs: Any) -> None:
        """Mark what the network is given."""
        for tensor in tree_leaves(inputs):
            if isinstance(tensor, Tensor):
                self.mark(tensor, self.space.opaque(tensor.shape, "meets the network's input"), compact=True)

    def weight(self, tensor: Tensor) -> Weight | None:
        """The parameter that ``tensor`` is, or is a transposed view of."""
        name = self._names.get(id(tensor))
        if name is not None:
            return Weight(name)
        return self.view(tensor)

    def decided(self, answer: bool) -> bool:
        """What was decided here in the wide network: in a narrow one a single channel may look like none."""
        place = len(self.seen.decisions)
        if self._like is not None and place < len(self._like.decisions):
            answer = self._like.decisions[place]
        self.seen.decisions.append(answer)
        return answer

    def site(self, name: str, role: Role, axis: int, slots: int, groups: int) -> Site:
        """The site of a weight's axis, made on first use."""
        key = (name, role, axis)
        other = self._other_side(name, role, axis)
        if other is not None:
            return other
        if key not in self.seen.sites:
            self.seen.sites[key] = Site(name, role, axis, self.space.fresh(slots), groups, self._operation)
        site = self.seen.sites[key]
        if site.groups != groups:
            self.freeze(name, f"`{name}` is used with {site.groups} and with {groups} groups")
        return site

    def reads(self, name: str, role: Role, axis: int, incoming: Tensor, groups: int) -> Site:
        """The site of a weight's axis whose slots are of the channels that come in."""
        other = self._other_side(name, role, axis)
        if other is not None:
            self.space.couple(other.labels, incoming)
            return other
        if (name, role, axis) not in self.seen.sites and not _of_none(incoming):
            # theirs from the start: labels of its own would only have to be coupled with them
            self.seen.sites[(name, role, axis)] = Site(name, role, axis, incoming, groups, self._operation)
        site = self.site(name, role, axis, incoming.numel(), groups)
        if site.labels is not incoming:
            self.space.couple(site.labels, incoming)
        return site

    def _other_side(self, name: str, role: Role, axis: int) -> Site | None:
        """The site of an axis that was met in the other role: an embedding that is the output layer too."""
        return self.seen.sites.get((name, "columns" if role == "rows" else "rows", axis))

    def holds(self, vectors: Sequence[Any], channels: Tensor) -> None:
        """Parameters or buffers with one value for each of these channels; what is no tensor is none."""
        of_none = _of_none(channels)
        for vector in vectors:
            if not isinstance(vector, Tensor):
                continue
            name = self._names.get(id(vector))
            new = name is not None and (name, "values", -1) not in self.seen.sites and self.carried(vector) is None
            if name is not None and new and vector.shape == channels.shape and not of_none:
                self.seen.sites[(name, "values", -1)] = Site(name, "values", -1, channels, operation=self._operation)
            else:
                self.space.couple(self.labels_of(vector), channels)

    def pieces(self, labels: Sequence[Tensor | None]) -> None:
        """Note which channels fall into each piece of a split: after pruning the same must fall into it.

        Splits are counted, not ops: copies come and go with the width. Each module counts its own, so that one which
        splits elsewhere at another width is the one that is blamed.
        """
        for index, found in enumerate(labels):
            if found is not None:
                key = f"#split {self.module}.{self.seen.splits[self.module]}.{index}"
                self.seen.sites[(key, "piece", 0)] = Site(key, "piece", 0, found, operation=self._operation)
        self.seen.splits[self.module] += 1

    @property
    def _operation(self) -> int:
        return len(self.seen.operations) - 1

    def freeze(self, name: str, reason: str) -> None:
        """Nothing may be cut from this parameter."""
        self.seen.frozen.setdefault(name, reason)

    def gamma(self, name: str) -> None:
        """This parameter is the scale of a batch norm."""
        self.seen.gammas[name] = None

    def depthwise(self, name: str, groups: int, columns: int) -> bool:
        """Whether a convolution has a group for each channel.

        In a narrow network it is what it was in the wide one: a group may be left with one channel by pruning.
        """
        if self._like is None and groups > 1 and columns == 1:
            self.seen.depthwise.add(name)
        return name in (self.seen.depthwise if self._like is None else self._like.depthwise)

    def per_channel(self, labels: Tensor, dim: int) -> Tensor:
        """``[channels]`` labels along ``dim``; whatever differs elsewhere within a channel is coupled."""
        dim %= labels.ndim
        steps = labels.stride()
        if all(
            step == 0 or size == 1
            for step, size in zip(
                steps[:dim] + steps[dim + 1 :], (*labels.shape[:dim], *labels.shape[dim + 1 :]), strict=True
            )
        ):
            return labels.as_strided([labels.shape[dim]], [steps[dim]])
        for other in range(labels.ndim):
            if other != dim:
                first = labels.narrow(other, 0, 1)
                if varies(labels, other):
                    self.space.couple(labels, first)
                labels = first
        return labels.flatten()

    def unmet(self) -> bool:
        """Whether the model has parameters that no op has used yet."""
        met = {site.key for site in self.seen.sites.values()} | self.seen.frozen.keys()
        return any(name not in met for name in self._names.values() if name in self._parameters)

    def leave(self, results: Any) -> None:
        """Fix what leaves the network at the end of a pass: its outputs, and what its modules keep.

        Raises:
            StageError: MC410, outputs cannot be looked into.
        """
        for tensor in output_tensors(results):
            self.seen.outputs.append(tensor)
            self.space.fix(self.labels_of(tensor), "is an output of the network")
            statistic = self.statistic(tensor)
            if statistic is not None:
                self.space.fix(statistic.labels, "has a mean over its channels, which is an output of the network")
        for path, module in self._model.named_modules():
            for attribute, value in vars(module).items():
                if attribute not in _OF_MODULES and not isinstance(value, _PLAIN):
                    self._keep(value, f"{path}.{attribute}" if path else attribute)

    def _keep(self, value: Any, name: str) -> None:
        """Fix what a module holds after the forward; it makes anew what it made of parameters alone."""
        for tensor in tensors_within(value):
            labels = self.carried(tensor)
            if labels is not None and id(tensor) not in self._names and not self.of_parameters(labels):
                self.space.fix(self.labels_of(tensor), f"is kept as `{name}` when the forward is over")

    def finish(self, inputs: tuple[Tensor, ...], *, trained: bool, cut_short: bool, macs: int) -> Trace:
        """Settle which axis of each parameter is cut, and name the classes."""
        if cut_short:  # whatever is still held may be an output
            for tensor in self.alive():
                self.space.fix(self.labels_of(tensor), "is an output of the network")
        classes = self.space.classes()
        sites = self.seen.sites
        weights = {site.key for site in sites.values() if site.role in ("rows", "columns")}
        for key in [key for key in sites if key[1] == "values"]:
            site = sites.pop(key)
            if site.key in weights:
                self.freeze(site.key, f"`{site.key}` is both a layer's weight and used by plain arithmetic")
            settled = self._settled(site, classes)
            sites[(settled.key, settled.role, settled.axis)] = settled
        for site in sites.values():
            if site.key in self.seen.frozen:
                self.space.fix(site.labels, self.seen.frozen[site.key])
        whole: dict[int, str] = {}
        for labels, reason in self.space.fixed:
            for found in distinct(classes[labels]).tolist():
                whole.setdefault(found, reason)
        return Trace(
            sites=sites,
            classes=classes,
            whole=whole,
            operations=self.seen.operations,
            gammas=list(self.seen.gammas),
            depthwise=frozenset(self.seen.depthwise),
            outputs=[tensor.shape for tensor in self.seen.outputs],
            subject=self._model,
            inputs=inputs,
            heads=self.heads,
            trained=trained,
            cut_short=cut_short,
            macs=macs,
            decisions=self.seen.decisions,
            frozen=self.seen.frozen,
            evaluated=self.seen.evaluated,
        )

    def _settled(self, site: Site, classes: Tensor) -> Site:
        """A parameter with one label per element, cut along the single axis on which its classes differ."""
        labels = site.labels
        if labels.ndim < 2:
            return replace(site, axis=0, labels=labels.reshape(-1))
        axes = [dim for dim in range(labels.ndim) if varies(classes[labels], dim)]
        if len(axes) > 1:
            self.space.fix(labels, f"parameter `{site.key}` differs along more than its channels")
        wide = [dim for dim in range(labels.ndim) if labels.shape[dim] > 1]
        axis = [*axes, *wide, 0][0]
        for dim in range(labels.ndim):
            if dim != axis:
                labels = labels.narrow(dim, 0, 1)
        return replace(site, axis=axis, labels=labels.flatten())


def _rules() -> Callable[..., None]:
    """All rules; they in turn need the tracer's module."""
    from mcomp.pruning.operators import follow

    return follow


def _of_none(labels: Tensor) -> bool:
    """Whether some of these are of no channel."""
    return lowest(labels) <= SETTLED


def _tensors(args: Sequence[Any], kwargs: dict[str, Any]) -> list[Tensor]:
    """Every tensor among the arguments, in lists too."""
    found = []
    for value in (*args, *kwargs.values()):
        if isinstance(value, Tensor):
            found.append(value)
        elif isinstance(value, list | tuple):
            found += [item for item in value if isinstance(item, Tensor)]
    return found


def _factor(func: Any, args: Any) -> float | None:
    """The number by which an op multiplies its first argument, where it does just that."""
    name = func.overloadpacket.__name__
    if name not in ("mul", "mul_", "div", "div_") or len(args) != 2:
        return None
    number = plain_number(args[1])
    if number is None or not isinstance(args[0], Tensor) or args[0].ndim == 0:
        return None
    return number if name.startswith("mul") else 1 / number if number else None


def _names(model: nn.Module) -> tuple[dict[int, str], dict[str, str]]:
    """Tensor identity to its dotted name, and the tensors that several modules own, with the reason."""
    names: dict[int, str] = {}
    owners: dict[int, set[tuple[int, str]]] = {}
    tied: dict[str, str] = {}
    for path, module in model.named_modules():
        for attribute, tensor in [*module._parameters.items(), *module._buffers.items()]:
            if tensor is None:
                continue
            name = f"{path}.{attribute}" if path else attribute
            first = names.setdefault(id(tensor), name)
            owners.setdefault(id(tensor), set()).add((id(module), attribute))
            if len(owners[id(tensor)]) > 1:
                tied[first] = f"`{first}` and `{name}` are one tied tensor"
    return names, tied
