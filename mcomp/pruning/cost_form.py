"""Parameters and MACs of a network as quadratic forms in the widths of its channel groups."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd

from mcomp.metrics.cost import weight_macs
from mcomp.pruning.channel_groups import ChannelGroups


@dataclass(frozen=True)
class CostForm:
    """``constant + linear @ k + sum(products * k[first] * k[second])``; no coefficient is below 0.

    Attributes:
        names: the groups, in the order of ``k``.
        constant: what depends on no width.
        linear: ``[groups]``.
        first: ``[products]`` int64.
        second: ``[products]`` int64; may equal ``first``.
        products: ``[products]``.
    """

    names: tuple[str, ...]
    constant: float
    linear: Tensor
    first: Tensor
    second: Tensor
    products: Tensor

    def value(self, widths: Mapping[str, float]) -> float:
        """At these widths of all groups."""
        k = torch.tensor([widths[name] for name in self.names], dtype=torch.float64)
        return float(self.values(k))

    def values(self, k: Tensor) -> Tensor:
        """At many sets of widths: ``[..., groups]`` float64, in the order of ``names``, to ``[...]``."""
        return self.constant + k @ self.linear + (self.products * k[..., self.first] * k[..., self.second]).sum(-1)


@dataclass
class _Axis:
    """The length of an axis: ``constant + sum(slope * k)``."""

    constant: float
    slopes: dict[str, float] = field(default_factory=dict)


def parameter_form(model: nn.Module, groups: ChannelGroups, only: str | None = None) -> CostForm:
    """The number of parameters, of all of them or of ``only`` one."""
    return _form(groups, {name: 1.0 for name, _ in model.named_parameters() if only in (None, name)}, model)


def mac_form(model: nn.Module, inputs: tuple[Tensor, ...], groups: ChannelGroups) -> CostForm:
    """MACs of one sample: each weight as often as it is used, be it by a module or by a function."""
    return _form(groups, _uses(model, inputs), model)


def agrees(form: CostForm, measured: float, widths: Mapping[str, float]) -> bool:
    """Whether the form gives what was counted on a network of these widths."""
    return abs(form.value(widths) - measured) < 0.5


def _form(groups: ChannelGroups, uses: Mapping[str, float], model: nn.Module) -> CostForm:
    names = tuple(group.name for group in groups.prunable)
    index = {name: place for place, name in enumerate(names)}
    lengths = _axis_lengths(model, groups)
    constant, linear = 0.0, torch.zeros(len(names), dtype=torch.float64)
    products: dict[tuple[int, int], float] = {}
    for name, parameter in model.named_parameters():
        factor = uses.get(name, 0.0)
        varying = [lengths[name, axis] for axis in range(parameter.ndim) if (name, axis) in lengths]
        for axis in range(parameter.ndim):
            factor *= 1 if (name, axis) in lengths else parameter.shape[axis]
        one, two = [*varying, _Axis(1.0), _Axis(1.0)][:2]
        constant += factor * one.constant * two.constant
        for mine, other in ((one, two), (two, one)):
            for group, slope in mine.slopes.items():
                linear[index[group]] += factor * slope * other.constant
        for first, slope in one.slopes.items():
            for second, other_slope in two.slopes.items():
                pair = index[first], index[second]
                products[pair] = products.get(pair, 0.0) + factor * slope * other_slope
    pairs = torch.tensor(list(products), dtype=torch.int64).reshape(-1, 2)
    weights = torch.tensor(list(products.values()), dtype=torch.float64)
    return CostForm(names, constant, linear, pairs[:, 0], pairs[:, 1], weights)


def _axis_lengths(model: nn.Module, groups: ChannelGroups) -> dict[tuple[str, int], _Axis]:
    """Parameter and axis to length, for the axes that some prunable group cuts."""
    parameters = dict(model.named_parameters())
    found: dict[tuple[str, int], _Axis] = {}
    for group in groups.prunable:
        for axis in group.coupled:
            parameter = parameters.get(axis.parameter)
            if parameter is None:  # a running mean
                continue
            split = axis.groups if axis.role == "columns" else 1
            length = parameter.shape[axis.axis]
            if axis.role == "columns" and _is_depthwise(model, axis.parameter):
                continue  # one column for each filter, at every width
            mine = found.setdefault((axis.parameter, axis.axis), _Axis(float(length)))
            mine.slopes[group.name] = mine.slopes.get(group.name, 0.0) + len(axis.indices) / group.channels / split
            mine.constant -= len(axis.indices) / split
    return found


def _is_depthwise(model: nn.Module, parameter: str) -> bool:
    layer = model.get_submodule(parameter.rpartition(".")[0])
    return isinstance(layer, _ConvNd) and layer.groups == layer.in_channels > 1


def _uses(model: nn.Module, inputs: tuple[Tensor, ...]) -> dict[str, float]:
    """Weight to how often each of its elements is multiplied for one sample."""
    sizes = {name: parameter.numel() for name, parameter in model.named_parameters()}
    return {name: macs / sizes[name] for name, macs in weight_macs(model, inputs).items() if sizes[name]}
