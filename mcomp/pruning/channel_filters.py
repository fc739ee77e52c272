"""The weights that make each channel of a network, as whole groups that a penalty pulls at."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from mcomp.errors import StageError
from mcomp.pruning.channel_groups import CoupledAxis
from mcomp.pruning.structured import trace


@dataclass(frozen=True)
class _Part:
    """One axis of a parameter, and the channel of the group that each of its slots belongs to."""

    parameter: str
    axis: int
    indices: Tensor
    members: Tensor


class ChannelFilters:
    """Every prunable channel with the weights that make it, over all layers that are coupled.

    These are the filters of each producing layer and the scales of the batch norms behind them. A scale has to be part
    of its group: behind a batch norm the length of a filter alone says nothing, for any length gives the same output.
    What takes no gradient counts and stays as it is; a kernel that is a buffer does not count.

    Args:
        model: any module; unchanged.
        example_inputs: a batch that it accepts.

    Raises:
        StageError: MC407, no channel can be pruned; as :func:`mcomp.pruning.trace`.
    """

    def __init__(self, model: nn.Module, example_inputs: tuple[Tensor, ...]) -> None:
        groups = trace(model, example_inputs)
        scales = set(groups.trace.gammas)
        parameters = {name for name, _ in model.named_parameters(remove_duplicate=False)}
        self._channels = {group.name: group.channels for group in groups.prunable}
        found = {
            group.name: [
                _part(axis, model.get_parameter(axis.parameter).device)
                for axis in group.coupled
                if axis.parameter in parameters and (axis.role == "rows" or axis.parameter in scales)
            ]
            for group in groups.prunable
        }
        self._parts = {name: parts for name, parts in found.items() if parts}
        if not self._parts:
            raise StageError(
                "the network has no channel that a penalty on its filters could drive out",
                code="MC407",
                why="; ".join(f"`{group.name}` {group.whole}" for group in groups.groups[:5]),
                hint="leave the `sparse_train` stage out, or use `train`",
            )

    def norms(self, model: nn.Module) -> dict[str, Tensor]:
        """Group to the ``[channels]`` L2 norms of all that makes each channel, float32, on the model's device."""
        found = {}
        for name, parts in self._parts.items():
            total: Tensor | None = None
            for part in parts:
                weight = model.get_parameter(part.parameter).detach()
                squares = weight.float().square().movedim(part.axis, 0).reshape(weight.shape[part.axis], -1).sum(1)
                slots = squares[part.indices.to(weight.device)]
                if total is None:
                    total = torch.zeros(self._channels[name], device=weight.device)
                total.index_add_(0, part.members.to(weight.device), slots)
            assert total is not None
            found[name] = total.sqrt()
        return found

    @torch.no_grad()
    def scale(self, model: nn.Module, factors: Mapping[str, Tensor]) -> None:
        """Multiply all that makes a channel by its factor, in place; ``factors`` are ``[channels]`` by group."""
        for name, of_channel in factors.items():
            for part in self._parts[name]:
                weight = model.get_parameter(part.parameter)
                if not weight.requires_grad:
                    continue
                along = torch.ones(weight.shape[part.axis], dtype=weight.dtype, device=weight.device)
                slots = of_channel.to(weight.device, weight.dtype)[part.members.to(weight.device)]
                along[part.indices.to(weight.device)] = slots
                weight.mul_(along.reshape([-1 if dim == part.axis else 1 for dim in range(weight.ndim)]))


def _part(axis: CoupledAxis, device: torch.device) -> _Part:
    return _Part(axis.parameter, axis.axis, axis.indices.to(device), axis.members.to(device))
