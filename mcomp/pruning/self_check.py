"""Proof by measurement: the pruned network computes what the masked one computes."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils._pytree import tree_leaves

from mcomp.errors import StageError
from mcomp.pruning.channel_surgery import Cut, cut_channels, shared_copy, without

TOLERANCE = 1e-5
_PRECISE_TOLERANCE = 1e-10

# Kept channels tried before a check counts as blind: single ones may be dead behind their ReLU.
_PERTURBATIONS = 24


def check(original: nn.Module, cuts: Sequence[Cut], inputs: tuple[Tensor, ...]) -> float:
    """Compare ``original`` with its pruned channels masked against ``original`` with them cut out.

    Masked means: zeros at every consumer's input for the pruned channels, done by zeroing the weights that read them.
    Both start from a copy whose batch norms were warmed by one seeded pass in train mode, so that even a random network
    has outputs of ordinary size; the input is seeded noise.

    Args:
        original: float32 or float64, in eval mode; unchanged.
        cuts: what was cut.
        inputs: the shapes to use; tensors that are not floating point are used as they are.

    Returns:
        ``max|pruned - masked| / max|masked|``: in float32, or in double where float32 is too coarse to tell.

    Raises:
        StageError: the two differ by more than 1e-5 in float32 and 1e-10 in double, or the check would not see a
            changed channel.
    """
    error, seen = _compare(original, cuts, inputs, TOLERANCE)
    if seen and error <= TOLERANCE:
        return error
    # Double precision tells rounding from a wrong cut (deep networks with few values a batch norm lose five digits
    # in float32), and shows layers scaled to near nothing (a fresh layer scale is 1e-6).
    rounding = error if error <= TOLERANCE else 0.0
    precise = copy.deepcopy(original).double()
    wide = tuple(tensor.double() if tensor.is_floating_point() else tensor for tensor in inputs)
    for subject, refit in ((precise, False), (_lively(precise), True)):
        precise_error, seen = _compare(subject, cuts, wide, _PRECISE_TOLERANCE, refit)
        if not precise_error <= _PRECISE_TOLERANCE:  # also when it is NaN
            raise _wrong(precise_error, _PRECISE_TOLERANCE)
        if seen:
            return max(rounding, precise_error)
    raise StageError(
        "the self-check of the pruning is blind: changing a kept channel does not change the output",
        code="MC414",
        why="the network's output does not depend on the pruned layers for random input",
        hint="look for layers with all-zero weights or batch norms",
    )


def _lively(model: nn.Module) -> nn.Module:
    """Lift every batch norm's shift, in place, so that few channels are dead behind their ReLU on a small batch."""
    with torch.no_grad():
        for norm in model.modules():
            if isinstance(norm, _BatchNorm) and norm.affine:
                norm.bias.abs_().add_(norm.weight.abs())
    return model


def _compare(
    original: nn.Module, cuts: Sequence[Cut], inputs: tuple[Tensor, ...], tolerance: float, refit: bool = False
) -> tuple[float, bool]:
    """The error, and whether the comparison would have seen a changed channel.

    With ``refit`` the norms are warmed behind the mask: what few channels remain then has the statistics of its own.
    """
    noise = _noise(inputs)
    try:
        if refit:
            masked = warmed(without(shared_copy(original), cuts), noise)
        else:
            masked = without(warmed(shared_copy(original), noise), cuts)
    except Exception as failure:  # a user's forward may raise anything
        raise StageError(
            f"the model fails on a batch of {len(noise[0])}: {type(failure).__name__}: {failure}",
            code="MC410",
            hint="give example inputs of two samples or more, large enough for every pooling layer",
        ) from failure
    pruned = cut_channels(shared_copy(masked), cuts)
    with torch.no_grad():
        expected, found = _outputs(masked, noise), _outputs(pruned, noise)
    size = float(expected.abs().max()) if expected.numel() else 0.0
    error = float((found - expected).abs().max()) / size if size else float("inf")
    return error, _sees_a_change(pruned, cuts, noise, found, tolerance)


def _wrong(error: float, tolerance: float) -> StageError:
    return StageError(
        f"pruning changed what the network computes: max|pruned - masked| / max|masked| is {error:.1e} "
        f"(allowed {tolerance:.0e} in double precision)",
        code="MC413",
        why="its code uses channels in a way that the trace did not see",
        hint="keep the layers around such code out with `ignore: [pattern]`",
    )


def warmed(model: nn.Module, inputs: tuple[Tensor, ...]) -> nn.Module:
    """Replace the batch-norm statistics of ``model`` by those of ``inputs``, and return it.

    Only the norms are in train mode meanwhile: dropout and auxiliary heads have no part in it.
    """
    norms = [module for module in model.modules() if isinstance(module, _BatchNorm) and module.track_running_stats]
    if not norms:
        return model
    for norm in norms:
        norm.momentum = 1.0
        norm.train()
    with torch.no_grad():
        _outputs(model, inputs)
    for norm in norms:
        norm.eval()
    return model


def _noise(inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """Seeded noise in the shape of the inputs, a batch of one doubled: batch norm has no statistics of one value."""
    generator = torch.Generator().manual_seed(0)
    single = all(tensor.ndim and len(tensor) == 1 for tensor in inputs)
    made = []
    for tensor in inputs:
        wide = torch.cat([tensor, tensor]) if single else tensor
        noise = torch.randn(wide.shape, generator=generator, dtype=torch.float32)
        made.append(noise.to(wide.dtype) if wide.is_floating_point() else wide)
    return tuple(made)


def _outputs(model: nn.Module, inputs: tuple[Tensor, ...]) -> Tensor:
    """All floating-point outputs in one vector."""
    results: Any = model(*(tensor.clone() for tensor in inputs))
    leaves = [leaf.flatten() for leaf in tree_leaves(results) if isinstance(leaf, Tensor) and leaf.is_floating_point()]
    return torch.cat(leaves) if leaves else torch.empty(0)


def _sees_a_change(
    pruned: nn.Module, cuts: Sequence[Cut], inputs: tuple[Tensor, ...], before: Tensor, tolerance: float
) -> bool:
    """Double one kept channel at one consumer; the output has to move by more than the tolerance."""
    readers = [cut for cut in cuts if cut.role == "columns"]
    if not readers:  # nothing with weights reads the pruned channels: there is no weight to change
        return False
    threshold = tolerance * float(before.abs().max())
    for attempt in range(_PERTURBATIONS):
        cut = readers[-1 - attempt % len(readers)]
        path, _, attribute = cut.parameter.rpartition(".")
        weight = getattr(pruned.get_submodule(path), attribute).data
        column = weight.select(cut.axis, attempt // len(readers) * 7 % weight.shape[cut.axis])
        saved = column.clone()
        column.mul_(2)
        with torch.no_grad():
            moved = float((_outputs(pruned, inputs) - before).abs().max())
        column.copy_(saved)
        if moved > threshold:
            return True
    return False
