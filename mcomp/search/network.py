"""What a search needs to know of a network: its layers in order, what they weigh, what they read."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd

from mcomp.errors import StageError
from mcomp.metrics.accuracy import in_eval_mode
from mcomp.metrics.samples import samples_of

#: Modules whose weight is multiplied with what they read.
WEIGHTED = (_ConvNd, nn.Linear)


@dataclass(frozen=True)
class Layer:
    """One layer that may be quantised.

    Attributes:
        name: in the model.
        weights: elements of its weight.
        inputs: elements that it reads for one sample, all its calls together.
    """

    name: str
    weights: int
    inputs: int


def layers_of(model: nn.Module, example_inputs: tuple[Tensor, ...]) -> list[Layer]:
    """Convolutions and linear layers, in the order in which they are first called; a shared one once.

    Raises:
        StageError: MC486, none of them is called.
    """
    names: dict[nn.Module, str] = {
        module: name for name, module in model.named_modules() if isinstance(module, WEIGHTED)
    }
    read: dict[str, int] = {}

    def note(module: nn.Module, inputs: tuple[Tensor, ...], named: dict[str, Tensor]) -> None:
        seen = inputs[0] if inputs else named["input"]
        read[names[module]] = read.get(names[module], 0) + seen.numel()

    handles = [module.register_forward_pre_hook(note, with_kwargs=True) for module in names]
    try:
        with torch.no_grad(), in_eval_mode(model):
            model(*example_inputs)
    finally:
        for handle in handles:
            handle.remove()
    if not read:
        raise StageError(
            "the network calls no convolution and no linear layer as a module",
            code="MC486",
            hint="write them as `nn.Conv2d`, `nn.Linear` …, so that each has a name to search by",
        )
    samples = max(samples_of(example_inputs), 1)
    # a parametrisation computes the weight: it is no parameter then
    sizes = {name: module.weight.numel() for module, name in names.items() if isinstance(module.weight, Tensor)}
    return [Layer(name, sizes[name], seen // samples) for name, seen in read.items()]
