"""Parameters and multiply-accumulates of a model."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeVar

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map
from torch.utils.flop_counter import FlopCounterMode, flop_registry

from mcomp.metrics.accuracy import in_eval_mode
from mcomp.metrics.activation_memory import address
from mcomp.metrics.samples import first_sample

Seen = TypeVar("Seen")


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

    def macs(one: Pass) -> int:
        with FlopCounterMode(display=False) as counter:
            one.run()
        return int(counter.get_total_flops()) // 2

    with visible_attention():
        return Cost(parameter_count(model), observed(model, example_inputs, macs))


def effective_macs(model: nn.Module, example_inputs: tuple[Tensor, ...]) -> int:
    """The MACs of one sample whose weight is not zero: what hardware has to do that skips every zero.

    Ordinary hardware skips none; for it :func:`count` holds. A weight that is computed from others (a fake-quantised
    one, say) counts as dense.

    Args:
        model: left as it was.
        example_inputs: a batch that the model accepts, of any batch size.
    """

    def idle(one: Pass) -> int:
        zeros = _ZeroWeights((one.tensors[name], weight) for name, weight in model.named_parameters())
        with zeros:
            one.run()
        return zeros.flops // 2

    with visible_attention():
        return count(model, example_inputs).macs - observed(model, example_inputs, idle)


def output_shape(model: nn.Module, example_inputs: tuple[Tensor, ...]) -> tuple[int, ...] | None:
    """Shape of one sample's output, the batch left out; None where the model does not return one tensor.

    Args:
        model: left as it was.
        example_inputs: a batch that the model accepts, of any batch size.
    """
    found = observed(model, example_inputs, lambda one: one.run())
    return tuple(found.shape[1:]) if isinstance(found, Tensor) else None


def parameter_count(model: nn.Module) -> int:
    """Elements of all parameters and named weight buffers; a shared tensor counts once."""
    return sum(tensor.numel() for _, tensor in stored_weights(model))


def stored_weights(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """All parameters and named weight buffers, each once, with its name."""
    seen: set[int] = set()
    buffers = (
        (f"{place}.{name}" if place else name, getattr(module, name))
        for place, module in model.named_modules()
        for name in getattr(module, "weight_buffers", ())
    )
    for name, tensor in itertools.chain(model.named_parameters(), buffers):
        if id(tensor) not in seen:
            seen.add(id(tensor))
            yield name, tensor


class Pass(NamedTuple):
    """One sample through a model, to be run once, and the tensors that it computes with: the model's, by name."""

    tensors: Mapping[str, Tensor]
    inputs: tuple[Any, ...]
    run: Callable[[], object]


def observed(model: nn.Module, example_inputs: tuple[Tensor, ...], observe: Callable[[Pass], Seen]) -> Seen:
    """What ``observe`` sees of a pass: one on the meta device, where only shapes are computed, else a real one."""
    sample = first_sample(example_inputs)
    own = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    with torch.no_grad(), in_eval_mode(model):
        try:
            ghosts = {name: tensor.detach().to("meta") for name, tensor in own.items()}
            inputs = tree_map(lambda leaf: leaf.to("meta") if isinstance(leaf, Tensor) else leaf, sample)
            return observe(Pass(ghosts, inputs, lambda: functional_call(model, ghosts, inputs)))
        except Exception:  # whatever a forward that reads values (`.item()`, plain-attribute tensors) raises there
            return observe(Pass(own, sample, lambda: model(*sample)))


class _ZeroWeights(TorchDispatchMode):  # type: ignore[no-untyped-call]  # torch publishes no types for these
    """Adds up the FLOPs of zeros in weights.

    An op may see a weight whole, transposed or in part: whatever window on its memory it gets is looked up in the
    weight itself. Every element of a window takes part in as many multiplications as any other.

    Args:
        weights: pairs of the tensor that ops will see, and the parameter with its values.
    """

    def __init__(self, weights: Iterable[tuple[Tensor, Tensor]]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._weights = {address(ghost): (ghost, weight.detach()) for ghost, weight in weights}
        self.flops = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        out = func(*args, **kwargs)
        formula = flop_registry.get(func.overloadpacket)
        if formula is not None:
            flops = int(formula(*args, **kwargs, out_val=out))
            for seen in tree_leaves((args, kwargs)):
                found = self._weights.get(address(seen)) if isinstance(seen, Tensor) and seen.ndim > 1 else None
                if found is not None and seen.numel():
                    ghost, weight = found
                    offset = weight.storage_offset() + seen.storage_offset() - ghost.storage_offset()
                    window = weight.as_strided(seen.shape, seen.stride(), offset)
                    self.flops += flops * int((window == 0).sum()) // seen.numel()
        return out


@contextmanager
def visible_attention() -> Iterator[None]:
    """Without its fused fast path, attention shows its matrix products to the counter."""
    enabled = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(enabled)
