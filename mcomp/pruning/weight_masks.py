"""Which single weights stay: the smallest of all, the smallest blocks, or the largest n of every m."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd

#: Rows (output channels) and columns (input channels) of a block.
Block = tuple[int, int]

_N_OF_M = re.compile(r"([1-9]\d{0,3}):([1-9]\d{0,3})")


@dataclass(frozen=True)
class LayerWeight:
    """A weight that a layer multiplies its input with.

    Attributes:
        layer: dotted name of the module.
        name: of the parameter.
        outputs: its axis of output channels.
        inputs: its axis of input channels, of one group where the layer has several.
    """

    layer: str
    name: str
    outputs: int = 0
    inputs: int = 1

    def matrices(self, weight: Tensor) -> Tensor:
        """A view ``[*kernel, outputs, inputs]``: one matrix for each kernel position."""
        return weight.movedim((self.outputs, self.inputs), (-2, -1))

    def weight_like(self, matrices: Tensor) -> Tensor:
        """The inverse of :meth:`matrices`."""
        return matrices.movedim((-2, -1), (self.outputs, self.inputs))


def layer_weights(model: nn.Module) -> Iterator[LayerWeight]:
    """The weights of convolutions, linear layers, attention and recurrent layers; a shared one once."""
    seen: set[int] = set()
    for layer, module in model.named_modules():
        axes = (1, 0) if isinstance(module, _ConvTransposeNd) else (0, 1)
        for name in _weight_names(module):
            weight = module._parameters.get(name)
            if weight is not None and weight.is_floating_point() and id(weight) not in seen:
                seen.add(id(weight))
                yield LayerWeight(layer, f"{layer}.{name}" if layer else name, *axes)


def n_of_m(pattern: str) -> tuple[int, int] | None:
    """``(n, m)`` of a pattern ``n:m`` with n below m; None for anything else."""
    found = _N_OF_M.fullmatch(pattern)
    if found is None or int(found[1]) >= int(found[2]):
        return None
    return int(found[1]), int(found[2])


def largest_of_each(matrices: Tensor, n: int, m: int) -> Tensor:
    """Keep the largest ``n`` of every ``m`` neighbours along the inputs (Mishra et al., arXiv:2104.08378).

    Where the inputs do not divide by m, the last neighbours are fewer, and n of them stay: with zeros behind them they
    are a whole group again. Of equal weights the first stay.

    Args:
        matrices: ``[..., inputs]``.
        n: how many stay.
        m: of how many.

    Returns:
        True where a weight stays, in the shape of ``matrices``.
    """
    groups = _in_groups(matrices.abs().float(), m, fill=-1.0)  # what is filled in is the first to go
    order = groups.argsort(dim=-1, descending=True, stable=True)
    kept = torch.zeros_like(groups, dtype=torch.bool).scatter_(-1, order[..., :n], True)
    return kept.flatten(-2)[..., : matrices.shape[-1]]


def most_in_a_group(matrices: Tensor, m: int) -> int:
    """The most weights that are not zero among any ``m`` neighbours along the inputs."""
    return int(_in_groups((matrices != 0).float(), m).sum(-1).max())


def block_scores(matrices: Tensor, block: Block) -> Tensor:
    """``[..., rows, columns]`` mean magnitude of every block; those at the edges are smaller where it does not fit."""
    rows, columns = block
    magnitudes = matrices.abs().float()
    if block == (1, 1):
        return magnitudes
    sums, sizes = (
        _in_groups(_in_groups(each, columns).sum(-1).mT, rows).sum(-1).mT
        for each in (magnitudes, torch.ones_like(magnitudes))
    )
    return sums / sizes


def of_blocks(chosen: Tensor, block: Block, shape: torch.Size) -> Tensor:
    """``[..., rows, columns]`` of blocks as ``shape``, the matrices that they divide."""
    whole = chosen.repeat_interleave(block[0], -2).repeat_interleave(block[1], -1)
    return whole[..., : shape[-2], : shape[-1]]


def smallest(scores: Sequence[Tensor], ratio: float) -> list[Tensor]:
    """True for the share ``ratio`` of all scores together that are the smallest, to the nearest count.

    Of equal ones the first go.
    """
    flat = torch.cat([each.flatten() for each in scores])
    count = round(ratio * len(flat))
    chosen = torch.zeros(len(flat), dtype=torch.bool, device=flat.device)
    if count:
        # torch.kthvalue carries an index with every value, and takes several times as long
        threshold = float(np.partition(flat.cpu().numpy(), count - 1)[count - 1])
        chosen = flat < threshold
        ties = (flat == threshold).nonzero().flatten()
        chosen[ties[: count - int(chosen.sum())]] = True
    ends = list(accumulate(each.numel() for each in scores))
    return [chosen[end - each.numel() : end].reshape(each.shape) for end, each in zip(ends, scores, strict=True)]


def _in_groups(matrices: Tensor, m: int, fill: float = 0.0) -> Tensor:
    """``[..., groups, m]``, filled up where the last axis does not divide."""
    whole = F.pad(matrices, (0, -matrices.shape[-1] % m), value=fill)
    return whole.reshape(*whole.shape[:-1], -1, m)


def _weight_names(module: nn.Module) -> Sequence[str]:
    if isinstance(module, _ConvNd | nn.Linear):
        return ("weight",)
    if isinstance(module, nn.MultiheadAttention):  # its output projection is a linear layer inside it
        return ("in_proj_weight", "q_proj_weight", "k_proj_weight", "v_proj_weight")
    if isinstance(module, nn.RNNBase | nn.RNNCellBase):
        return [name for name in module._parameters if name.startswith("weight_")]
    return ()
