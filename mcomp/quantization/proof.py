"""The proof that conversion changed nothing but precision: with all quantisers at rest, it is the float network."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from mcomp.errors import StageError
from mcomp.metrics.accuracy import in_eval_mode
from mcomp.quantization.bypass import bypassed
from mcomp.quantization.modules import relative_error

_SAME = 1e-4  # of float32; attention and recurrent layers sum in another order than the fused originals
_ROUNDINGS = 64  # of shorter types


def prove_float(model: nn.Module, converted: nn.Module, example_inputs: tuple[Tensor, ...]) -> None:
    """Run both once in eval mode, ``converted`` with its quantisers bypassed.

    Raises:
        StageError: MC420, they differ by more than the roundings of float arithmetic.
    """
    with in_eval_mode(model), in_eval_mode(converted), torch.no_grad():
        expected = model(*example_inputs)
        with bypassed(converted):
            found = converted(*example_inputs)
        allowed = _allowed(expected)
        difference = relative_error(found, expected)
        if difference <= allowed:
            return
        # nan, or an answer that changes from call to call, is the float network's own
        if not relative_error(model(*example_inputs), expected) <= allowed:
            return
    raise StageError(
        f"quantising `{type(model).__name__}` would change more than its precision: {difference:.1e} apart",
        code="MC420",
        why="with every quantiser at rest the converted network does not answer as the float one",
        hint="pass `route='modules'`, and please report the network",
    )


def _allowed(expected: object) -> float:
    kinds = {leaf.dtype for leaf in tree_leaves(expected) if isinstance(leaf, Tensor) and leaf.is_floating_point()}
    return max([_SAME, *(_ROUNDINGS * torch.finfo(kind).eps for kind in kinds if torch.finfo(kind).bits < 32)])
