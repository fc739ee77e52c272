"""Proof by measurement: the pruned network computes what the masked one computes."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils._pytree import tree_leaves, tree_map

from mcomp.errors import StageError
from mcomp.pruning.channel_surgery import Surgery, restored, shared_copy
from mcomp.pruning.held_tensors import copied_inputs, output_tensors
from mcomp.pruning.masking import run_masked
from mcomp.pruning.tracing import Trace
from mcomp.pruning.value_free import ValueFree
from mcomp.pruning.visibility import Sight, hides, largest, lively, sight

TOLERANCE = 1e-5

_PRECISE_TOLERANCE = 1e-10

#: Rounding in double, as a share of the largest output: what is mathematically zero beside it is no smaller.
_ROUNDING = 1e-13


@dataclass(frozen=True)
class Proof:
    """What a check found.

    Attributes:
        error: ``max|pruned - masked| / max|masked|`` of the output that differs most.
        coarse: the same in float32, where rounding alone takes it beyond the tolerance and ``error`` is of doubles.
    """

    error: float
    coarse: float | None = None


class WrongCut(StageError):
    """The trace did not see all that the network's code does with its channels.

    Attributes:
        is_exact: whether another surgery passes the comparison that this one failed, by that alone.
    """

    def __init__(self, message: str, is_exact: Callable[[Surgery], bool], **told: str) -> None:
        super().__init__(message, **told)
        self.is_exact = is_exact


@torch.inference_mode(False)
def check(original: nn.Module, surgery: Surgery, inputs: tuple[Tensor, ...], trace: Trace) -> Proof:
    """Compare ``original`` with its pruned channels masked against ``original`` with them cut out.

    Masked means: zeros at every consumer's input for the pruned channels, statistics of normalisation over the others,
    and the original scale of attention (:mod:`mcomp.pruning.masking`). Both start from a copy whose batch norms were
    warmed by one seeded pass in train mode, so that even a random network has outputs of ordinary size; the input is
    seeded noise. Each output is held to its own size. Where some layer that reads pruned channels has no visible part
    in any output, both are compared once more with whatever hides it lifted in both alike.

    Args:
        original: float32 or float64, in eval mode; unchanged.
        surgery: what was done.
        inputs: the shapes to use; tensors that are not floating point are used as they are.
        trace: of ``original``.

    Raises:
        WrongCut: the two differ by more than 1e-5 in float32 and 1e-10 in double.
        StageError: they do because the network itself is not steady or not finite; or the check would not see a
            changed channel.
    """
    errors = []
    for lifted, subject in enumerate(_subjects(original)):
        comparison = _Comparison(subject, inputs, trace, TOLERANCE)
        found = comparison.run(surgery)
        if not found.error <= TOLERANCE:
            break
        errors.append(found.error)
        if found.sight.every or (found.sight.any and not found.sight.faint and (lifted or not hides(original))):
            return Proof(max(errors))  # what has no part at all in the outputs for this input gets none by precision
    # Double precision tells rounding from a wrong cut (deep networks with few values a batch norm lose five digits
    # in float32), and shows layers scaled to near nothing.
    coarse = None if found.error <= TOLERANCE else found.error
    wide = tree_map(
        lambda leaf: leaf.double() if isinstance(leaf, Tensor) and leaf.is_floating_point() else leaf, inputs
    )
    for refit, subject in enumerate(_subjects(copy.deepcopy(original).double())):
        comparison = _Comparison(subject, wide, trace, _PRECISE_TOLERANCE, bool(refit))
        found = comparison.run(surgery)
        if not found.error <= _PRECISE_TOLERANCE:  # also when it is NaN
            raise _refused(found.error, comparison)
        errors.append(found.error)
        if found.sight.every:
            break
    if not found.sight.any:
        raise _blind(found.outputs)
    return Proof(max(errors), coarse)


def _subjects(model: nn.Module) -> Iterator[nn.Module]:
    """The network, and then one of its structure in which everything is seen."""
    yield model
    yield lively(copy.deepcopy(model))


@dataclass(frozen=True)
class _Found:
    error: float
    sight: Sight
    outputs: list[Tensor]


@dataclass(frozen=True)
class _Comparison:
    """Of a network masked and cut, on seeded noise.

    With ``refit`` the norms are warmed behind the mask: what few channels remain then has the statistics of its own.
    """

    original: nn.Module
    inputs: tuple[Tensor, ...]
    trace: Trace
    tolerance: float
    refit: bool = False

    def run(self, surgery: Surgery) -> _Found:
        """The error, and what the comparison would have seen."""
        pruned, expected, found = self._both(surgery)
        error = self._error(expected, found)
        if not error <= self.tolerance:
            return _Found(error, Sight(every=True, any=True), found)
        readers = [cut for cut in surgery.cuts if cut.role == "columns" and self._runs(cut.parameter, cut.axis)]
        return _Found(error, sight(pruned, readers, self._answers, floats(found), self.tolerance), found)

    def is_exact(self, surgery: Surgery) -> bool:
        """Whether the two agree."""
        _, expected, found = self._both(surgery)
        return self._error(expected, found) <= self.tolerance

    def _both(self, surgery: Surgery) -> tuple[nn.Module, list[Tensor], list[Tensor]]:
        def masked(model: nn.Module) -> list[Tensor]:
            return output_tensors(run_masked(model, surgery.cuts, copied_inputs(self.noise), self.trace))

        try:
            whole = warmed(shared_copy(self.original), masked) if self.refit else shared_copy(self._warm)
            expected = masked(whole)
        except StageError:
            raise
        except Exception as failure:  # a user's forward may raise anything
            raise StageError(
                f"the model fails on seeded noise in the shape of its inputs: {type(failure).__name__}: {failure}",
                code="MC410",
                hint="give example inputs of two samples or more, large enough for every pooling layer",
            ) from failure
        pruned = surgery.apply(whole)
        return pruned, expected, _outputs(pruned, self.noise)

    @cached_property
    def noise(self) -> tuple[Any, ...]:
        """The input."""
        return _noise(self.inputs)

    @cached_property
    def _warm(self) -> nn.Module:
        return warmed(shared_copy(self.original), lambda model: _outputs(model, self.noise))

    def _answers(self, model: nn.Module) -> list[Tensor]:
        with restored(model), ValueFree():  # type: ignore[no-untyped-call]
            return floats(output_tensors(model(*copied_inputs(self.noise))))

    def _runs(self, parameter: str, axis: int) -> bool:
        """Whether the weight is read in eval mode: nothing is seen of an auxiliary head that only training has."""
        site = self.trace.sites.get((parameter, "columns", axis))
        return site is None or site.operation < self.trace.evaluated

    def _error(self, expected: Sequence[Tensor], found: Sequence[Tensor]) -> float:
        """The largest of all outputs, each against its own size; where that is rounding, against the largest one's."""
        if [one.shape for one in expected] != [one.shape for one in found]:
            return float("inf")
        pairs = list(zip(floats(expected), floats(found), strict=True))
        if pairs and not any(bool(one.isfinite().any()) for one, _ in pairs):
            return float("nan")
        sizes = [largest(one) for one, _ in pairs]
        rounding = _ROUNDING * max(sizes, default=0.0) / self.tolerance if self.tolerance < TOLERANCE else 0.0
        errors = [
            difference / max(size, rounding) if max(size, rounding) else float("inf")
            for (one, other), size in zip(pairs, sizes, strict=True)
            if (difference := _difference(one, other)) != 0
        ]
        return max(errors, key=lambda error: (error != error, error), default=0.0)  # NaN before all


def floats(outputs: Sequence[Tensor]) -> list[Tensor]:
    """Those that hold real or complex numbers, as real ones."""
    return [
        torch.view_as_real(one.resolve_conj()) if one.is_complex() else one
        for one in outputs
        if one.is_floating_point() or one.is_complex()
    ]


def _difference(one: Tensor, other: Tensor) -> float:
    """The largest; infinities that both have are none."""
    return float((other - one).masked_fill(one == other, 0).abs().max()) if one.numel() else 0.0


def _refused(error: float, comparison: _Comparison) -> StageError:
    original, noise = comparison.original, comparison.noise
    told = (
        f"pruning changed what the network computes: max|pruned - masked| / max|masked| is {error:.1e} "
        f"(allowed {_PRECISE_TOLERANCE:.0e} in double precision)"
    )
    first, second = _outputs(original, noise), _outputs(original, noise)
    if [one.shape for one in first] != [one.shape for one in second] or any(
        not torch.equal(one.nan_to_num(), two.nan_to_num()) for one, two in zip(first, second, strict=True)
    ):
        why = "its forward computes something else each time it runs"
        return StageError(told, code="MC413", why=why, hint="let it draw no random numbers in eval mode")
    answers = floats(first)
    if any(bool(one.isnan().any()) for one in answers) or not any(bool(one.isfinite().any()) for one in answers):
        why = "the whole network already gives inf or nan for noise"
        return StageError(told, code="MC413", why=why, hint="check its weights and its batch norms")
    return WrongCut(
        told,
        comparison.is_exact,
        code="MC413",
        why="its code uses channels in a way that the trace did not see",
        hint="keep the layers around such code out with `ignore: [pattern]`",
    )


def _blind(outputs: Sequence[Tensor]) -> StageError:
    if outputs and not floats(outputs):
        what = "the self-check of the pruning is blind: all outputs are whole numbers, in which no small change shows"
        hint = "let the network return its scores, and take the best of them (`argmax`) outside"
        return StageError(what, code="MC414", hint=hint)
    return StageError(
        "the self-check of the pruning is blind: changing a kept channel does not change the output",
        code="MC414",
        why="the network's output does not depend on the pruned layers for random input"
        if outputs
        else "the network returns no tensor",
        hint="look for layers with all-zero weights or batch norms" if outputs else "return tensors",
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


def _outputs(model: nn.Module, inputs: tuple[Tensor, ...]) -> list[Tensor]:
    with restored(model), torch.no_grad(), ValueFree():  # type: ignore[no-untyped-call]
        return output_tensors(model(*copied_inputs(inputs)))
