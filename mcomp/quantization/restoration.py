"""The float network back out of a quantised one, with the weights that its training went on with.

Quantisation-aware training moves latent float weights; the quantised ones are derived from them (Courbariaux et al.,
arXiv:1511.00363). So a quantised model still holds everything that the float network is made of but its structure. That
is kept beside it: the float model itself, its tensors emptied, which costs no memory to speak of.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator

import torch
from torch import Tensor, nn

from mcomp import surgery
from mcomp.errors import StageError
from mcomp.quantization.calibration import quantizers
from mcomp.quantization.summary import quantising_modules

#: Where a quantised model keeps the emptied float model: no submodule, no part of its state.
FLOAT = "_mcomp_float"


def is_quantized(model: nn.Module) -> bool:
    """Whether ``model`` was quantised, at 32 bits throughout too, or holds anything that quantises."""
    return FLOAT in model.__dict__ or bool(quantising_modules(model))


def restore_float(model: nn.Module) -> nn.Module:
    """The float network that ``model`` was quantised from, with the present latent weights and batch norm statistics.

    Of the class that it had, functions and ReLUs that quantisation replaced included. The tensors are copies.

    Args:
        model: from :func:`mcomp.quantization.quantize`, trained or not; not changed.

    Raises:
        StageError: MC428, the model is not quantised, its weights were folded to integers, or it lost its record of
            the float network (``torch.save`` of a whole graph module does that; :func:`mcomp.save_model` does not).
    """
    log = surgery.provenance(model).log
    kept = model.__dict__.get(FLOAT)
    if not is_quantized(model):
        raise _refusal("the model is not quantised", "nothing to restore: it is float already")
    if log and log[-1]["op"] == "fuse":
        raise _refusal("the model's weights are integers: batch norms were folded", "start from the model before that")
    if not isinstance(kept, nn.Module) or not log or log[-1]["op"] != "quantize":
        raise _refusal(
            "the model does not know the float network it was made of",
            "quantise it with `mcomp.quantization.quantize`, and save it with `mcomp.save_model`",
        )
    present = {name: tensor for tensor, names in _tensors(model) for name in names}
    filled: dict[int, Tensor] = {}
    for tensor, names in _tensors(kept):
        found = next((present[name] for name in names if name in present), None)
        if found is not None:
            filled[id(tensor)] = _like(tensor, found.detach().clone())
    restored = copy.deepcopy(kept, filled)  # a memo: id to what stands for it
    surgery.inherit(restored, model)
    surgery.provenance(restored).log.pop()
    return restored.train(model.training)


def float_twin(model: nn.Module) -> nn.Module | None:
    """The float network with the present weights where signs took ReLUs' places, which a bypass cannot all undo."""
    signs = any(quantizer.bits == 1 for quantizer in quantizers(model).values())
    log = surgery.provenance(model).log
    whole = FLOAT in model.__dict__ and bool(log) and log[-1]["op"] == "quantize"
    return restore_float(model).eval() if signs and whole else None


def remember_float(converted: nn.Module, model: nn.Module) -> None:
    """Keep ``model``, without the tensors that ``converted`` has too, for :func:`restore_float`."""
    held = {name for _, names in _tensors(converted) for name in names}
    emptied = {
        id(tensor): _like(tensor, torch.empty_like(tensor, device="meta"))
        for tensor, names in _tensors(model)
        if held.intersection(names)
    }
    converted.__dict__[FLOAT] = copy.deepcopy(model, emptied)


def _tensors(model: nn.Module) -> Iterator[tuple[Tensor, list[str]]]:
    """Every parameter and buffer, with all its names."""
    found: dict[int, tuple[Tensor, list[str]]] = {}
    for path, module in model.named_modules(remove_duplicate=False):
        for name, tensor in [*module._parameters.items(), *module._buffers.items()]:
            if tensor is not None:
                found.setdefault(id(tensor), (tensor, []))[1].append(f"{path}.{name}".removeprefix("."))
    return iter(found.values())


def _like(tensor: Tensor, values: Tensor) -> Tensor:
    if isinstance(tensor, nn.Parameter):
        return nn.Parameter(values, requires_grad=tensor.requires_grad)
    return values


def _refusal(message: str, hint: str) -> StageError:
    return StageError(message, code="MC428", hint=hint)
