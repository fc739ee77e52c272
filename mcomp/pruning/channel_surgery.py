"""Cut channels out of a network: weights, statistics and the attributes that hold widths."""

from __future__ import annotations

import copy
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.conv import _ConvNd

from mcomp.errors import StoreError


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
            "runs": _runs(self.indices.tolist()),
        }

    @classmethod
    def from_entry(cls, entry: dict[str, Any]) -> Cut:
        """The inverse of :meth:`as_entry`."""
        indices = [index for start, stop in entry["runs"] for index in range(start, stop)]
        return cls(entry["parameter"], entry["axis"], entry["role"], torch.tensor(indices), entry["groups"])


def cut_channels(model: nn.Module, cuts: Iterable[Cut]) -> nn.Module:
    """Apply ``cuts`` to ``model`` in place, transferring the weights, and return it."""
    touched: dict[int, nn.Module] = {}
    # columns of a group convolution are cut row by row: its rows must be the final ones
    for cut in sorted(cuts, key=lambda cut: cut.role == "columns"):
        owner, attribute = _owner(model, cut.parameter)
        old = getattr(owner, attribute)
        new = _cut(old.detach(), cut)
        if isinstance(old, nn.Parameter):
            owner.register_parameter(attribute, nn.Parameter(new, requires_grad=old.requires_grad))
        else:
            owner._buffers[attribute] = new
        touched[id(owner)] = owner
    for module in touched.values():
        _update_widths(module)
    return model


def shared_copy(model: nn.Module) -> nn.Module:
    """A copy whose parameters are those of ``model``; its structure and buffers are its own.

    Surgery replaces parameters and never writes into them, so large networks need not be duplicated to be cut.
    """
    return copy.deepcopy(model, {id(parameter): parameter for parameter in model.parameters()})


def without(model: nn.Module, cuts: Iterable[Cut]) -> nn.Module:
    """Mask in place instead: zero the columns that read a pruned channel, leaving every shape as it is."""
    for cut in cuts:
        if cut.role == "columns":
            owner, attribute = _owner(model, cut.parameter)
            old = getattr(owner, attribute)
            weight = old.detach().clone()
            owner.register_parameter(attribute, nn.Parameter(weight, requires_grad=False))
            kept = torch.zeros(weight.shape[cut.axis] * cut.groups, dtype=torch.bool, device=weight.device)
            kept[cut.indices.to(weight.device)] = True
            if cut.groups == 1:
                weight.index_fill_(cut.axis, (~kept).nonzero().flatten(), 0)
                continue
            rows = weight.shape[0] // cut.groups
            for group, columns in enumerate(kept.reshape(cut.groups, -1)):
                weight[group * rows : (group + 1) * rows, ~columns] = 0
    return model


def replay(model: nn.Module, entry: dict[str, Any]) -> nn.Module:
    """Repeat a recorded pruning on an unpruned model of the same kind.

    Raises:
        StoreError: the entry does not fit the model.
    """
    try:
        return cut_channels(model, [Cut.from_entry(cut) for cut in entry["cuts"]])
    except (AttributeError, IndexError, RuntimeError) as error:
        raise StoreError(
            "the recorded pruning does not fit this model",
            code="MC419",
            why=str(error),
            hint="the artifact was made from another model, or from another version of its code",
        ) from error


def _owner(model: nn.Module, parameter: str) -> tuple[nn.Module, str]:
    path, _, attribute = parameter.rpartition(".")
    return model.get_submodule(path), attribute


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
        if module.transposed:
            module.in_channels, module.out_channels = first, second * module.groups
            return
        if module.groups == module.in_channels > 1:  # depthwise: as many groups as channels remain
            module.groups = first // (module.out_channels // module.groups)
        module.out_channels, module.in_channels = first, second * module.groups
    elif isinstance(module, nn.Linear):
        module.out_features, module.in_features = module.weight.shape
    elif isinstance(module, _NormBase):
        vectors = [tensor for tensor in (module.weight, module.running_mean) if tensor is not None]
        module.num_features = len(vectors[0])
    elif isinstance(module, nn.PReLU):
        module.num_parameters = module.weight.numel()


def _runs(indices: list[int]) -> list[list[int]]:
    runs: list[list[int]] = []
    for index in indices:
        if runs and runs[-1][1] == index:
            runs[-1][1] += 1
        else:
            runs.append([index, index + 1])
    return runs
