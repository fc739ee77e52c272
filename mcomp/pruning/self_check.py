"""Proof by measurement: the pruned network computes what the masked one computes."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils._pytree import tree_leaves, tree_map

from mcomp.errors import StageError
from mcomp.pruning.channel_surgery import Cut, Surgery, restored, shared_copy
from mcomp.pruning.masking import run_masked
from mcomp.pruning.tracing import Trace
from mcomp.pruning.value_free import ValueFree

TOLERANCE = 1e-5

#: Why a check fails where the network itself gives steady, finite answers.
UNSEEN = "its code uses channels in a way that the trace did not see"

_PRECISE_TOLERANCE = 1e-10

# Kept channels tried before a check counts as blind: single ones may be dead behind their ReLU.
_PERTURBATIONS = 24


def check(original: nn.Module, surgery: Surgery, inputs: tuple[Tensor, ...], trace: Trace) -> float:
    """Compare ``original`` with its pruned channels masked against ``original`` with them cut out.

    Masked means: zeros at every consumer's input for the pruned channels, statistics of normalisation over the others,
    and the original scale of attention (:mod:`mcomp.pruning.masking`). Both start from a copy whose batch norms were
    warmed by one seeded pass in train mode, so that even a random network has outputs of ordinary size; the input is
    seeded noise.

    Args:
        original: float32 or float64, in eval mode; unchanged.
        surgery: what was done.
        inputs: the shapes to use; tensors that are not floating point are used as they are.
        trace: of ``original``.

    Returns:
        ``max|pruned - masked| / max|masked|``: in float32, or in double where float32 is too coarse to tell.

    Raises:
        StageError: the two differ by more than 1e-5 in float32 and 1e-10 in double, or the check would not see a
            changed channel.
    """
    error, seen = _compare(original, surgery, inputs, trace, TOLERANCE)
    if not seen and error <= TOLERANCE:
        error, seen = _compare(_lively(copy.deepcopy(original)), surgery, inputs, trace, TOLERANCE)
    if seen and error <= TOLERANCE:
        return error
    # Double precision tells rounding from a wrong cut (deep networks with few values a batch norm lose five digits
    # in float32), and shows layers scaled to near nothing (a fresh layer scale is 1e-6).
    rounding = error if error <= TOLERANCE else 0.0
    precise = copy.deepcopy(original).double()
    wide = tree_map(
        lambda leaf: leaf.double() if isinstance(leaf, Tensor) and leaf.is_floating_point() else leaf, inputs
    )
    for subject, refit in ((precise, False), (_lively(precise), True)):
        precise_error, seen = _compare(subject, surgery, wide, trace, _PRECISE_TOLERANCE, refit)
        if not precise_error <= _PRECISE_TOLERANCE:  # also when it is NaN
            raise _wrong(precise_error, subject, wide)
        if seen:
            return max(rounding, precise_error)
    raise StageError(
        "the self-check of the pruning is blind: changing a kept channel does not change the output",
        code="MC414",
        why="the network's output does not depend on the pruned layers for random input",
        hint="look for layers with all-zero weights or batch norms",
    )


def _lively(model: nn.Module) -> nn.Module:
    """Let everything be seen, in place: no channel dead behind its ReLU on a small batch, no weight all zeros."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.is_floating_point() and not bool(parameter.any()):
                spread = max(1, parameter[0].numel()) if parameter.ndim > 1 else 1
                noise = torch.randn(parameter.shape, generator=generator, dtype=parameter.dtype)
                parameter.copy_(noise / spread**0.5)
        for norm in model.modules():
            if isinstance(norm, _BatchNorm) and norm.affine:
                norm.bias.abs_().add_(norm.weight.abs())
    return model


def _compare(
    original: nn.Module,
    surgery: Surgery,
    inputs: tuple[Tensor, ...],
    trace: Trace,
    tolerance: float,
    refit: bool = False,
) -> tuple[float, bool]:
    """The error, and whether the comparison would have seen a changed channel.

    With ``refit`` the norms are warmed behind the mask: what few channels remain then has the statistics of its own.
    """
    noise = _noise(inputs)

    def masked(model: nn.Module) -> Tensor:
        return _joined(run_masked(model, surgery.cuts, _copied(noise), trace))

    try:
        whole = warmed(shared_copy(original), lambda model: masked(model) if refit else _outputs(model, noise))
        expected = masked(whole)
    except Exception as failure:  # a user's forward may raise anything
        raise StageError(
            f"the model fails on seeded noise in the shape of its inputs: {type(failure).__name__}: {failure}",
            code="MC410",
            hint="give example inputs of two samples or more, large enough for every pooling layer",
        ) from failure
    pruned = surgery.apply(whole)
    found = _outputs(pruned, noise)
    if found.shape != expected.shape:
        return float("inf"), True
    size, difference = (float(one.abs().max()) if one.numel() else 0.0 for one in (expected, found - expected))
    if size == 0 == difference:  # a head that begins with zeros: nothing was seen
        return 0.0, False
    error = difference / size if size else float("inf")
    return error, _sees_a_change(pruned, surgery.cuts, noise, found, tolerance)


def _wrong(error: float, original: nn.Module, inputs: tuple[Tensor, ...]) -> StageError:
    noise = _noise(inputs)
    first, second = _outputs(original, noise), _outputs(original, noise)
    if first.shape != second.shape or not torch.equal(first.nan_to_num(), second.nan_to_num()):
        why, hint = (
            "its forward computes something else each time it runs",
            "let it draw no random numbers in eval mode",
        )
    elif not bool(first.isfinite().all()):
        why, hint = "the whole network already gives inf or nan for noise", "check its weights and its batch norms"
    else:
        why = UNSEEN
        hint = "keep the layers around such code out with `ignore: [pattern]`"
    return StageError(
        f"pruning changed what the network computes: max|pruned - masked| / max|masked| is {error:.1e} "
        f"(allowed {_PRECISE_TOLERANCE:.0e} in double precision)",
        code="MC413",
        why=why,
        hint=hint,
    )


def warmed(model: nn.Module, run: Callable[[nn.Module], object]) -> nn.Module:
    """Replace the batch-norm statistics of ``model`` by those that ``run`` shows it, and return it.

    Only the norms are in train mode meanwhile: dropout and auxiliary heads have no part in it.
    """
    norms = [module for module in model.modules() if isinstance(module, _BatchNorm) and module.track_running_stats]
    if not norms:
        return model
    for norm in norms:
        norm.momentum = 1.0
        norm.train()
    run(model)
    for norm in norms:
        norm.eval()
    return model


def _noise(inputs: tuple[Any, ...]) -> tuple[Any, ...]:
    """Seeded noise in the shape of the inputs, a batch of one doubled: batch norm has no statistics of one value."""
    generator = torch.Generator().manual_seed(0)
    tensors = [leaf for leaf in tree_leaves(inputs) if isinstance(leaf, Tensor)]
    single = all(tensor.ndim and len(tensor) == 1 for tensor in tensors)

    def made(leaf: Any) -> Any:
        if not isinstance(leaf, Tensor):
            return leaf
        wide = torch.cat([leaf, leaf]) if single else leaf
        noise = torch.randn(wide.shape, generator=generator, dtype=torch.float32)
        return noise.to(wide.dtype) if wide.is_floating_point() else wide

    found: tuple[Any, ...] = tree_map(made, inputs)
    return found


def _copied(inputs: tuple[Any, ...]) -> tuple[Any, ...]:
    found: tuple[Any, ...] = tree_map(lambda leaf: leaf.clone() if isinstance(leaf, Tensor) else leaf, inputs)
    return found


def _outputs(model: nn.Module, inputs: tuple[Tensor, ...]) -> Tensor:
    """All floating-point outputs in one vector."""
    with restored(model), torch.no_grad(), ValueFree():  # type: ignore[no-untyped-call]
        return _joined(model(*_copied(inputs)))


def _joined(results: Any) -> Tensor:
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
        column = weight.select(cut.axis, attempt // len(readers) % weight.shape[cut.axis])
        saved = column.clone()
        column.mul_(2)
        moved = float((_outputs(pruned, inputs) - before).abs().max())
        column.copy_(saved)
        if moved > threshold:
            return True
    return False
