"""Parameters and multiply-accumulates of a model."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.utils.flop_counter import FlopCounterMode

from mcomp.metrics.accuracy import in_eval_mode


@dataclass(frozen=True)
class Cost:
    """Size and work of a model.

    Attributes:
        params: numbers it stores as weights; batch-norm statistics and other buffers are not counted.
        macs: multiply-accumulates of convolutions and matrix products for one sample.
    """

    params: int
    macs: int


def count(model: nn.Module, example_inputs: tuple[Tensor, ...]) -> Cost:
    """Count parameters and the MACs of one sample.

    Norms, activations and biases are left out of the MACs. A module that keeps weights in buffers
    (integers after folding) names them in an attribute ``weight_buffers``; they count as parameters.

    Args:
        model: left as it was.
        example_inputs: a batch that the model accepts, of any batch size.
    """
    one = tuple(tensor[:1] for tensor in example_inputs)
    with torch.no_grad(), in_eval_mode(model), _visible_attention():
        try:
            macs = _macs_on_meta(model, one)
        except Exception:  # whatever a forward that reads values (`.item()`, plain-attribute tensors) raises there
            macs = _macs(model, one)
    return Cost(parameter_count(model), macs)


def output_shape(model: nn.Module, example_inputs: tuple[Tensor, ...]) -> tuple[int, ...] | None:
    """Shape of one sample's output, the batch left out; None where the model does not return one tensor.

    Args:
        model: left as it was.
        example_inputs: a batch that the model accepts, of any batch size.
    """
    one = tuple(tensor[:1] for tensor in example_inputs)
    with torch.no_grad(), in_eval_mode(model):
        try:
            found = _run_on_meta(model, one)
        except Exception:  # as in `count`
            found = model(*one)
    return tuple(found.shape[1:]) if isinstance(found, Tensor) else None


def parameter_count(model: nn.Module) -> int:
    """Elements of all parameters and named weight buffers; a shared tensor counts once."""
    tensors: dict[int, Tensor] = {id(parameter): parameter for parameter in model.parameters()}
    for module in model.modules():
        for name in getattr(module, "weight_buffers", ()):
            buffer = getattr(module, name)
            tensors[id(buffer)] = buffer
    return sum(tensor.numel() for tensor in tensors.values())


def _macs_on_meta(model: nn.Module, inputs: tuple[Tensor, ...]) -> int:
    """Only shapes are computed: exact, and no arithmetic is done."""
    with FlopCounterMode(display=False) as counter:
        _run_on_meta(model, inputs)
    return int(counter.get_total_flops()) // 2


def _run_on_meta(model: nn.Module, inputs: tuple[Tensor, ...]) -> object:
    named = [*model.named_parameters(), *model.named_buffers()]
    tensors = {name: tensor.detach().to("meta") for name, tensor in named}
    return functional_call(model, tensors, tuple(tensor.to("meta") for tensor in inputs))


def _macs(model: nn.Module, inputs: tuple[Tensor, ...]) -> int:
    with FlopCounterMode(display=False) as counter:
        model(*inputs)
    return int(counter.get_total_flops()) // 2


@contextmanager
def _visible_attention() -> Iterator[None]:
    """Without its fused fast path, attention shows its matrix products to the counter."""
    enabled = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(enabled)
