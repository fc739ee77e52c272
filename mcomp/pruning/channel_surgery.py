"""Cut channels out of a network: weights, statistics and the attributes that hold widths."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.conv import _ConvNd

from mcomp.errors import StoreError
from mcomp.pruning.attention import PrunableAttention, freed, pad_as_tensors
from mcomp.pruning.copying import structural_copy
from mcomp.pruning.kept_values import KeptValues, kept_values

#: Rows of a recurrent layer's weights for each channel of its state.
_GATES = {"LSTM": 4, "GRU": 3, "RNN_TANH": 1, "RNN_RELU": 1}


@dataclass(frozen=True)
class Cut:
    """Keep ``indices``, in this order, of one axis of one parameter or buffer.

    Attributes:
        parameter: dotted name.
        axis: which axis.
        role: ``rows``, ``columns`` or ``values``.
        indices: ``[kept]``; for columns of a group convolution they count over its whole input, group after group.
        groups: of the convolution, for columns; else 1.
    """

    parameter: str
    axis: int
    role: str
    indices: Tensor
    groups: int = 1

    def as_entry(self) -> dict[str, Any]:
        """JSON-able, indices as ``[start, stop]`` runs: what a surgery log keeps."""
        return {
            "parameter": self.parameter,
            "axis": self.axis,
            "role": self.role,
            "groups": self.groups,
            "runs": _runs(self.indices),
        }

    @classmethod
    def from_entry(cls, entry: dict[str, Any]) -> Cut:
        """The inverse of :meth:`as_entry`."""
        indices = [index for start, stop in entry["runs"] for index in range(start, stop)]
        return cls(entry["parameter"], entry["axis"], entry["role"], torch.tensor(indices), entry["groups"])


@dataclass(frozen=True)
class Width:
    """An attribute of the person's own code that holds a width, and what it becomes."""

    module: str
    name: str
    value: int | list[int]


@dataclass(frozen=True)
class Rescaling:
    """Multiply some slices of a parameter: the code scales what it makes by a number that follows the width.

    Attributes:
        parameter: dotted name.
        axis: which axis.
        indices: ``[slices]`` positions on the axis, after the cuts.
        factor: by which to multiply.
    """

    parameter: str
    axis: int
    indices: Tensor
    factor: float


@dataclass(frozen=True)
class Surgery:
    """All that is done to a network to prune it."""

    cuts: tuple[Cut, ...] = ()
    widths: tuple[Width, ...] = ()
    rescalings: tuple[Rescaling, ...] = ()

    def apply(self, model: nn.Module) -> nn.Module:
        """Prune ``model`` in place, and return it."""
        cut_channels(model, self.cuts, self.widths)
        for change in self.rescalings:
            owner, attribute = _owner(model, change.parameter)
            weight = getattr(owner, attribute)
            shape = [-1 if dim == change.axis else 1 for dim in range(weight.ndim)]
            factors = torch.ones(weight.shape[change.axis], dtype=weight.dtype, device=weight.device)
            factors[change.indices.to(weight.device)] = change.factor
            changed = weight.detach() * factors.reshape(shape)  # in a parameter of its own: this one may be shared
            setattr(owner, attribute, _in_place_of(weight, changed))
        return model

    def as_entry(self) -> dict[str, Any]:
        """JSON-able: what a surgery log keeps. Rescalings are in the tensors."""
        widths = [{"module": width.module, "name": width.name, "value": width.value} for width in self.widths]
        return {"cuts": [cut.as_entry() for cut in self.cuts], **({"widths": widths} if widths else {})}


def cut_channels(model: nn.Module, cuts: Iterable[Cut], widths: Iterable[Width] = ()) -> nn.Module:
    """Apply ``cuts`` to ``model`` in place, transferring the weights, and return it."""
    cuts = list(cuts)
    modules = dict(model.named_modules(remove_duplicate=False))
    _free_attention(modules, cuts)
    touched: dict[int, nn.Module] = {}
    # columns of a group convolution are cut row by row: its rows must be the final ones
    for cut in sorted(cuts, key=lambda cut: cut.role == "columns"):
        path, _, attribute = cut.parameter.rpartition(".")
        owner = modules[path] if path in modules else model.get_submodule(path)
        old = getattr(owner, attribute)
        new = _cut(old.detach(), cut)
        if isinstance(old, nn.Parameter):
            setattr(owner, attribute, _in_place_of(old, new))
        else:
            owner._buffers[attribute] = new
        touched[id(owner)] = owner
    for width in widths:
        _set_width(model.get_submodule(width.module), width)
    for module in dict.fromkeys(modules.values()):
        if isinstance(module, PrunableAttention):
            module.update_widths()
        elif id(module) in touched:
            _update_widths(module)
    return model


@contextmanager
def restored(model: nn.Module) -> Iterator[KeptValues]:
    """Undo, at the end of the block, what is done to ``model`` in it: parameters, their values, widths, classes."""
    before = [
        (module, type(module), {name: _held(value) for name, value in vars(module).items()})
        for module in model.modules()
    ]
    with kept_values(model.parameters()) as kept:
        try:
            yield kept
        finally:
            for module, cls, attributes in before:
                module.__class__ = cls
                module.__dict__.clear()
                module.__dict__.update(attributes)


def _held(value: Any) -> Any:
    """The value itself, but for the plain containers in which modules keep their parameters."""
    return value.copy() if type(value) in (dict, list) else value


def _free_attention(modules: dict[str, nn.Module], cuts: Iterable[Cut]) -> None:
    """PyTorch's attention knows one width only: that which is cut is turned into one with several."""
    for path in {cut.parameter.rpartition(".")[0] for cut in cuts}:
        for around in (path, path.rpartition(".")[0]):  # its output projection is a module inside it
            module = modules.get(around)
            if type(module) is nn.MultiheadAttention:
                freed(module)
    pad_as_tensors(modules.values())


def _set_width(module: nn.Module, width: Width) -> None:
    held = getattr(module, width.name)
    value = width.value
    setattr(module, width.name, type(held)(value) if isinstance(value, list) else value)


def own_parameters(pruned: nn.Module, original: nn.Module) -> nn.Module:
    """Give ``pruned`` parameters of its own in place of those it still shares with ``original``, and return it."""
    shared = {id(parameter) for parameter in original.parameters()}
    copies: dict[int, nn.Parameter] = {}
    for module in pruned.modules():
        for name, parameter in module._parameters.items():
            if parameter is not None and id(parameter) in shared:
                copy_of = copies.setdefault(id(parameter), _in_place_of(parameter, parameter.detach().clone()))
                setattr(module, name, copy_of)
    return pruned


def shared_copy(model: nn.Module) -> nn.Module:
    """A copy whose parameters are those of ``model``; its structure and buffers are its own.

    Surgery replaces parameters and never writes into them, so large networks need not be duplicated to be cut.
    """
    return structural_copy(model, {id(parameter): parameter for parameter in model.parameters()})


def replay(model: nn.Module, entry: dict[str, Any]) -> nn.Module:
    """Repeat a recorded pruning on an unpruned model of the same kind.

    Raises:
        StoreError: the entry does not fit the model.
    """
    try:
        widths = [Width(**width) for width in entry.get("widths", [])]
        return cut_channels(model, [Cut.from_entry(cut) for cut in entry["cuts"]], widths)
    except (AttributeError, IndexError, RuntimeError, TypeError) as error:
        raise StoreError(
            "the recorded pruning does not fit this model",
            code="MC419",
            why=str(error),
            hint="the artifact was made from another model, or from another version of its code",
        ) from error


def _owner(model: nn.Module, parameter: str) -> tuple[nn.Module, str]:
    path, _, attribute = parameter.rpartition(".")
    return model.get_submodule(path), attribute


def _in_place_of(old: nn.Parameter, values: Tensor) -> nn.Parameter:
    """A parameter of these values, with whatever was noted on ``old``: that it takes no weight decay, say."""
    made = nn.Parameter(values, requires_grad=old.requires_grad)
    made.__dict__.update(old.__dict__)
    return made


def _cut(tensor: Tensor, cut: Cut) -> Tensor:
    indices = cut.indices.to(tensor.device)
    if cut.groups == 1 or cut.role != "columns":
        return tensor.index_select(cut.axis, indices)
    within = indices.reshape(cut.groups, -1)
    first = torch.arange(cut.groups, device=tensor.device)[:, None] * tensor.shape[1]
    group_of_row = torch.arange(tensor.shape[0], device=tensor.device) // (tensor.shape[0] // cut.groups)
    columns = (within - first)[group_of_row]
    rows = torch.arange(tensor.shape[0], device=tensor.device)[:, None]
    return tensor[rows, columns]


def _update_widths(module: nn.Module) -> None:
    """Bring the attributes that describe widths in line with the weights."""
    if isinstance(module, _ConvNd):
        first, second = module.weight.shape[:2]
        if module.groups == module.in_channels > 1:  # depthwise: as many groups as channels remain
            module.groups = first // (1 if module.transposed else module.out_channels // module.groups)
        if module.transposed:
            module.in_channels, module.out_channels = first, second * module.groups
        else:
            module.out_channels, module.in_channels = first, second * module.groups
    elif isinstance(module, nn.Linear):
        module.out_features, module.in_features = module.weight.shape
    elif isinstance(module, _NormBase):
        vectors = [tensor for tensor in (module.weight, module.running_mean) if tensor is not None]
        module.num_features = len(vectors[0])
    elif isinstance(module, nn.LayerNorm | nn.RMSNorm):
        module.normalized_shape = tuple(module.weight.shape)
    elif isinstance(module, nn.GroupNorm):
        module.num_channels = len(module.weight)
    elif isinstance(module, nn.Embedding):
        module.num_embeddings, module.embedding_dim = module.weight.shape
    elif isinstance(module, nn.RNNBase):
        weight = module.get_parameter("weight_ih_l0")
        module.input_size = weight.shape[1]
        module.hidden_size = weight.shape[0] // _GATES[module.mode]
        if module.proj_size:
            module.proj_size = module.get_parameter("weight_hr_l0").shape[0]
    elif isinstance(module, nn.RNNCellBase):
        module.input_size = module.weight_ih.shape[1]
        module.hidden_size = module.weight_hh.shape[1]
    elif isinstance(module, nn.PReLU):
        module.num_parameters = module.weight.numel()


def _runs(indices: Tensor) -> list[list[int]]:
    """``[start, stop]`` of each stretch of numbers that follow one another."""
    values = indices.numpy()
    breaks = (values[1:] != values[:-1] + 1).nonzero()[0]
    starts, stops = [values[:1], values[breaks + 1]], [values[breaks], values[-1:]]
    return np.stack([np.concatenate(starts), np.concatenate(stops) + 1], 1).tolist()  # type: ignore[no-any-return]
