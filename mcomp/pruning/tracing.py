"""Follow channel labels through one forward, under a dispatch mode, op by op."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.weak import WeakTensorKeyDictionary

from mcomp.pruning.labels import LabelSpace, Role, Site, compressed, distinct, varies

# A parameter used element by element beyond this size is a table, not a value per channel.
_LARGEST_VALUES = 1 << 16


@dataclass(frozen=True)
class Weight:
    """A parameter, or a transposed view of it, as an operator met it."""

    name: str
    transposed: bool = False


@dataclass
class Operation:
    """One op of the forward: its name, the module it ran in, the labels that reached it."""

    name: str
    module: str
    labels: list[Tensor]


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
        trained: whether a second pass in train mode was followed as well.
    """

    sites: dict[tuple[str, Role, int], Site]
    classes: Tensor
    whole: dict[int, str]
    operations: list[Operation]
    gammas: list[str]
    depthwise: frozenset[str]
    outputs: list[torch.Size]
    trained: bool = False


class TraceFailure(Exception):
    """The forward raised; carries what had been seen so far."""

    def __init__(self, cause: Exception, operations: list[Operation]) -> None:
        super().__init__(str(cause))
        self.cause = cause
        self.operations = operations


@dataclass
class _Seen:
    sites: dict[tuple[str, Role, int], Site] = field(default_factory=dict)
    frozen: dict[str, str] = field(default_factory=dict)
    gammas: dict[str, None] = field(default_factory=dict)
    depthwise: set[str] = field(default_factory=set)
    splits: int = 0
    operations: list[Operation] = field(default_factory=list)


class Tracer(TorchDispatchMode):  # type: ignore[no-untyped-call]  # torch publishes no types for these
    """Carries labels along while the ops of a forward run; :mod:`mcomp.pruning.operators` knows the ops."""

    def __init__(self, model: nn.Module, like: Trace | None) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._like = like
        self.space = LabelSpace()
        self.seen = _Seen()
        self.module = ""
        self._labels: WeakTensorKeyDictionary = WeakTensorKeyDictionary()
        self._views: WeakTensorKeyDictionary = WeakTensorKeyDictionary()
        self._names, tied = _names(model)
        self._parameters = {self._names[id(parameter)] for parameter in model.parameters()}
        for name, reason in tied.items():
            self.freeze(name, reason)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        from mcomp.pruning.operators import follow

        kwargs = kwargs or {}
        tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        tracked = [self._labels[tensor] for tensor in tensors if tensor in self._labels]
        self.seen.operations.append(Operation(str(func), self.module, tracked))
        out = func(*args, **kwargs)
        if tensors:
            follow(self, func, args, kwargs, tensors, out)
        return out

    def labels_of(self, tensor: Tensor) -> Tensor:
        """The labels of ``tensor``, in its shape."""
        found = self._labels.get(tensor)  # type: ignore[no-untyped-call]
        assert found is None or isinstance(found, Tensor)
        if found is not None and found.shape == tensor.shape:
            return found
        if found is not None:
            self.space.fix(found, f"a tensor changes its shape in place in `{self.module}`")
        name = self._names.get(id(tensor))
        if name is None:
            labels = self.space.opaque(tensor.shape, f"meets a tensor that `{self.module or 'forward'}` makes itself")
            self._labels[tensor] = labels
            return labels
        if tensor.numel() > _LARGEST_VALUES:
            self.freeze(name, f"parameter `{name}` is used by plain arithmetic")
            return self.space.opaque(tensor.shape, f"meets parameter `{name}` in plain arithmetic")
        key: tuple[str, Role, int] = (name, "values", -1)
        if key not in self.seen.sites:
            labels = self.space.fresh(tensor.numel()).reshape(tensor.shape)
            self.seen.sites[key] = Site(name, "values", -1, labels, operation=self._operation)
        return self.seen.sites[key].labels

    def mark(self, tensor: Tensor, labels: Tensor) -> None:
        """``tensor`` carries ``labels`` from here on."""
        self._labels[tensor] = compressed(labels)

    def weight(self, tensor: Tensor) -> Weight | None:
        """The parameter that ``tensor`` is, or is a transposed view of."""
        name = self._names.get(id(tensor))
        if name is not None:
            return Weight(name)
        found = self._views.get(tensor)  # type: ignore[no-untyped-call]
        assert found is None or isinstance(found, Weight)
        return found

    def mark_view(self, tensor: Tensor, weight: Weight) -> None:
        """``tensor`` is a view of a parameter."""
        self._views[tensor] = weight

    def site(self, name: str, role: Role, axis: int, slots: int, groups: int) -> Site:
        """The site of a weight's axis, made on first use."""
        key = (name, role, axis)
        if key not in self.seen.sites:
            self.seen.sites[key] = Site(name, role, axis, self.space.fresh(slots), groups, self._operation)
        site = self.seen.sites[key]
        if site.groups != groups:
            self.freeze(name, f"`{name}` is used with {site.groups} and with {groups} groups")
        return site

    def pieces(self, labels: Sequence[Tensor | None]) -> None:
        """Note which channels fall into each piece of a split: after pruning the same must fall into it.

        Splits are counted, not ops: copies come and go with the width.
        """
        for index, found in enumerate(labels):
            if found is not None:
                key = f"#{self.seen.splits}.{index}"
                self.seen.sites[(key, "piece", 0)] = Site(key, "piece", 0, found, operation=self._operation)
        self.seen.splits += 1

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

    def finish(self, outputs: Any, trained: bool) -> Trace:
        """Fix what leaves the network, settle which axis of each parameter is cut, and name the classes."""
        tensors = [leaf for leaf in tree_leaves(outputs) if isinstance(leaf, Tensor)]
        for tensor in tensors:
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
        shapes = [tensor.shape for tensor in tensors]
        return Trace(
            sites,
            classes,
            whole,
            self.seen.operations,
            list(self.seen.gammas),
            frozenset(self.seen.depthwise),
            shapes,
            trained,
        )

    def _settled(self, site: Site, classes: Tensor) -> Site:
        """A parameter with one label per element, cut along the single axis on which its classes differ."""
        labels = site.labels
        if labels.ndim == 0:
            return replace(site, axis=0, labels=labels.reshape(1))
        axes = [dim for dim in range(labels.ndim) if varies(classes[labels], dim)]
        if len(axes) > 1:
            self.space.fix(labels, f"parameter `{site.key}` differs along more than its channels")
        wide = [dim for dim in range(labels.ndim) if labels.shape[dim] > 1]
        axis = [*axes, *wide, 0][0]
        for dim in range(labels.ndim):
            if dim != axis:
                labels = labels.narrow(dim, 0, 1)
        return replace(site, axis=axis, labels=labels.flatten())


def trace_labels(model: nn.Module, inputs: tuple[Tensor, ...], like: Trace | None = None) -> Trace:
    """Run ``model`` once on ``inputs`` and follow the labels.

    Where parameters were not met on the way (auxiliary heads that only exist in training), it runs again in train
    mode: they must still fit after pruning.

    Args:
        model: in eval mode, on the CPU; hooks are put on it and taken off again.
        inputs: a batch that it accepts.
        like: trace of the network from which ``model`` was pruned.

    Raises:
        TraceFailure: the forward raised.
    """
    tracer = Tracer(model, like)
    outputs = [_run(tracer, model, inputs)]
    if tracer.unmet() if like is None else like.trained:
        try:
            with _train_mode(model):
                outputs.append(_run(tracer, model, inputs))
        except TraceFailure:
            if like is not None:
                raise
            # these inputs do not suit training (an auxiliary head may be too deep for them): start afresh without it
            tracer = Tracer(model, like)
            return tracer.finish([_run(tracer, model, inputs)], trained=False)
    return tracer.finish(outputs, trained=len(outputs) > 1)


def _run(tracer: Tracer, model: nn.Module, inputs: tuple[Tensor, ...]) -> Any:
    for tensor in inputs:
        tracer.mark(tensor, tracer.space.opaque(tensor.shape, "meets the network's input"))
    with torch.no_grad(), _module_names(model, tracer):
        try:
            with tracer:
                return model(*inputs)
        except Exception as error:  # a user's forward may raise anything
            raise TraceFailure(error, tracer.seen.operations) from error


@contextmanager
def _train_mode(model: nn.Module) -> Iterator[None]:
    """Train mode for one pass that leaves no trace: buffers and the random state come back as they were."""
    buffers = [(buffer, buffer.clone()) for buffer in model.buffers()]
    model.train()
    try:
        with torch.random.fork_rng(devices=[]):
            yield
    finally:
        model.eval()
        for buffer, before in buffers:
            buffer.copy_(before)


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


@contextmanager
def _module_names(model: nn.Module, tracer: Tracer) -> Iterator[None]:
    """Keep ``tracer.module`` at the name of the innermost module that is running."""
    stack: list[str] = []
    handles = []

    def enter(name: str) -> Any:
        def hook(_module: nn.Module, _args: Any) -> None:
            stack.append(tracer.module)
            tracer.module = name

        return hook

    def leave(_module: nn.Module, _args: Any, _output: Any) -> None:
        tracer.module = stack.pop()

    try:
        for name, module in model.named_modules():
            handles.append(module.register_forward_pre_hook(enter(name), prepend=True))
            handles.append(module.register_forward_hook(leave))
        yield
    finally:
        for handle in handles:
            handle.remove()
