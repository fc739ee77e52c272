"""A quantised network with quantisers out of the way: what it would compute in float, or with one layer quantised."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

from torch import Tensor, nn
from torch.nn import functional as F

from mcomp.quantization.kept_weight import KeptWeight
from mcomp.quantization.observers.base import Observer, Range
from mcomp.quantization.quantized_functions import QuantizedFunction
from mcomp.quantization.quantizers.base import Quantizer

#: Where conversion notes in a quantiser's ``__dict__`` what it took the place of.
STANDS_FOR = "stands_for"


@contextmanager
def bypassed(model: nn.Module, keep: Collection[Quantizer] = ()) -> Iterator[None]:
    """Let every quantiser but those of ``keep`` pass its tensor as it is, weights included.

    A ReLU whose place a binary activation took is one again (one that went from behind an average is not), and an XNOR
    input scale rests with its quantiser. What was folded to integers stays integer: there is no float weight left.

    Args:
        model: quantised; as it was found afterwards.
        keep: quantisers that go on quantising.
    """
    kept = {id(quantizer) for quantizer in keep}
    off = [each for each in model.modules() if isinstance(each, Quantizer) and id(each) not in kept]
    with ExitStack() as undo:
        undo.callback(_forget, model)
        for quantizer in off:
            undo.callback(quantizer.watch, quantizer._calibrator)
            quantizer.watch(_Blind())
            relu = _RELUS.get(quantizer.__dict__.get(STANDS_FOR, ""))
            if relu is not None:
                undo.callback(quantizer.register_forward_hook(relu).remove)
        for module in model.modules():
            _set_aside(module, kept, undo)
        _forget(model)
        yield


def _set_aside(module: nn.Module, kept: set[int], undo: ExitStack) -> None:
    if isinstance(module, QuantizedFunction) and module.alone and id(module.output_quantizer) not in kept:
        undo.callback(setattr, module, "alone", True)
        module.alone = False
    scale = module._modules.get("input_scale")
    if scale is not None and id(module._modules.get("input_quantizer")) not in kept:
        undo.callback(module.register_module, "input_scale", scale)
        module.register_module("input_scale", None)


def _forget(model: nn.Module) -> None:
    """Drop weights that were quantised, or were not, and kept."""
    for module in model.modules():
        if isinstance(module, KeptWeight):
            module._kept = None


def _relu(_module: nn.Module, args: tuple[Tensor, ...], _output: Any) -> Tensor:
    return F.relu(args[0])


def _relu6(_module: nn.Module, args: tuple[Tensor, ...], _output: Any) -> Tensor:
    return F.relu6(args[0])


_RELUS = {"relu": _relu, "relu6": _relu6}


class _Blind(Observer):
    """Sees nothing; a quantiser that is watched lets its tensors pass."""

    @property
    def empty(self) -> bool:
        return True

    def update(self, x: Tensor, name: str = "") -> None:
        return

    def clip(self, levels: int, signed: bool) -> Range:
        return 0.0

    def range(self, steps: int) -> tuple[Range, Range]:
        return 0.0, 0.0
