"""Sparse training of batch-norm scales (Liu et al., "Network Slimming", arXiv:1708.06519)."""

from __future__ import annotations

import fnmatch
from collections.abc import Iterator, Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from mcomp.errors import StageError, UsageError
from mcomp.pruning.distribution import distribution
from mcomp.pruning.structured import trace

#: Steady-state gain of momentum 0.9: a constant gradient moves the weight ten times its plain step.
MOMENTUM_GAIN = 10.0


class BNPenalty:
    """L1 on the scale γ of every batch norm whose channels can be pruned; a ``training.Penalty``.

    Which these are :meth:`prepare` finds out; where the network cannot be traced, or before that, it is every one.
    A scale that takes no gradient stays as it is.

    Args:
        strength: s, above 0; 1e-4 to 1e-3 is usual.
        mode: ``decoupled`` shrinks after each step, γ ← sign(γ)·max(|γ| − 10·lr·s, 0): the pull that SGD with momentum
            0.9 gives, whatever the optimiser. ``subgradient`` adds s·sign(γ) to the gradient, as the paper does.
        exclude: names or patterns (``features.0.*``) of batch norms to leave alone.

    Raises:
        UsageError: the strength or the mode makes no sense.
    """

    def __init__(
        self,
        strength: float,
        mode: Literal["decoupled", "subgradient"] = "decoupled",
        exclude: Sequence[str] = (),
    ) -> None:
        self.strength = check_strength(strength)
        if mode not in ("decoupled", "subgradient"):
            raise UsageError(f"`mode` is `{mode}`; one of decoupled, subgradient", code="MC417")
        self.mode = mode
        self.exclude = tuple(exclude)
        self._unprunable: frozenset[str] = frozenset()

    def prepare(self, model: nn.Module, example_inputs: tuple[Tensor, ...], steps: int) -> None:
        """Find the scales to pull at.

        Raises:
            StageError: MC407, there is none.
        """
        self._unprunable = _unprunable_scales(model, example_inputs)
        if next(self._gammas(model), None) is None:
            raise StageError(
                "the network has no batch norm whose scales could be pulled to zero",
                code="MC407",
                why=f"the channels of {_some(self._unprunable)} cannot be pruned" if self._unprunable else "",
                hint="use `method: group_lasso`, which pulls at whole filters",
            )

    def before_step(self, model: nn.Module) -> None:
        """Add the subgradient, in that mode; after ``backward``, before the optimiser's step."""
        if self.mode == "subgradient":
            for _, gamma in self._gammas(model):
                if gamma.grad is not None:
                    gamma.grad.add_(gamma.detach().sign(), alpha=self.strength)

    def after_step(self, model: nn.Module, lr: float, step: int) -> None:
        """Shrink, in ``decoupled`` mode; after the optimiser's step with learning rate ``lr``."""
        if self.mode == "decoupled":
            with torch.no_grad():
                for _, gamma in self._gammas(model):
                    gamma.copy_(gamma.sign() * (gamma.abs() - MOMENTUM_GAIN * lr * self.strength).clamp_(min=0))

    def record(self, model: nn.Module, step: int) -> dict[str, Any]:
        """Figures for the history of an epoch: how |γ| is spread, see :func:`distribution`."""
        return distribution("gamma", {name: gamma.detach().abs() for name, gamma in self._gammas(model)})

    def _gammas(self, model: nn.Module) -> Iterator[tuple[str, Tensor]]:
        for name, module in model.named_modules():
            excluded = any(fnmatch.fnmatchcase(name, pattern) for pattern in self.exclude)
            scale = f"{name}.weight" if name else "weight"
            if excluded or scale in self._unprunable or not isinstance(module, _BatchNorm) or not module.affine:
                continue
            if module.weight.requires_grad:
                yield name, module.weight


def _unprunable_scales(model: nn.Module, example_inputs: tuple[Tensor, ...]) -> frozenset[str]:
    """Those that the network's forward uses, on channels that have to stay."""
    try:
        groups = trace(model, example_inputs)
    except Exception:  # whatever a forward that cannot be traced raises: it can be trained all the same
        return frozenset()
    return frozenset(groups.trace.gammas) - {axis.parameter for group in groups.prunable for axis in group.coupled}


def _some(scales: frozenset[str]) -> str:
    names = sorted(f"`{scale.removesuffix('.weight')}`" for scale in scales)
    return ", ".join(names[:5]) + (" …" if len(names) > 5 else "")


def check_strength(strength: float) -> float:
    """``strength`` itself.

    Raises:
        UsageError: MC417, it is not above 0, or not finite.
    """
    if not 0 < strength < float("inf"):
        raise UsageError(f"`strength` is {strength}; it must be above 0", code="MC417")
    return strength
