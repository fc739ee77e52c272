"""Where a network's parameters, multiply-accumulates and memory are: layer by layer, and in all."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn
from torch.nn.modules.module import register_module_forward_hook, register_module_forward_pre_hook
from torch.utils.flop_counter import FlopCounterMode

from mcomp.metrics.activation_memory import ActivationMemory
from mcomp.metrics.cost import Pass, observed, stored_weights, visible_attention

#: Bits of a floating-point parameter that is no weight (bias, norm, scale) where weights are given other bits.
OTHER_BITS = 32


@dataclass(frozen=True)
class LayerCost:
    """One module that holds parameters or multiplies.

    Attributes:
        name: in the model; empty for the model itself.
        kind: its class.
        shape: of one sample's output, the batch left out; of its last call. None where that is no single tensor.
        params: what it holds itself; of modules inside it too that are never called on their own.
        macs: of one sample, all calls together; of modules inside it none.
        weight_bytes: of ``params``.
        peak_bytes: largest memory of all activations that are there while it works, those that wait for others too.
    """

    name: str
    kind: str
    shape: tuple[int, ...] | None
    params: int
    macs: int
    weight_bytes: int
    peak_bytes: int


@dataclass(frozen=True)
class Meter:
    """A network measured.

    Attributes:
        layers: in the order of their first call.
        params: as :func:`mcomp.metrics.count` has it.
        macs: likewise.
        weight_bytes: of all parameters.
        peak_bytes: largest memory that activations need at any time, the inputs among them.
        peak_at: name of the module at work then; empty for the model itself.
    """

    layers: tuple[LayerCost, ...]
    params: int
    macs: int
    weight_bytes: int
    peak_bytes: int
    peak_at: str


def measure(
    model: nn.Module, example_inputs: tuple[Any, ...], *, w_bits: int | None = None, a_bits: int | None = None
) -> Meter:
    """Measure one sample's pass, on the meta device where the model allows it: no arithmetic is done there.

    MACs are those of convolutions and matrix products, attention's included; norms, activations and biases are not
    counted. What activation memory means: :class:`~mcomp.metrics.activation_memory.ActivationMemory`.

    Args:
        model: left as it was.
        example_inputs: a batch that the model accepts, of any batch size.
        w_bits: of floating-point parameters with more than one axis; the other floating-point ones have 32 then. As
            the model holds them where None.
        a_bits: of floating-point activations; as they are where None.
    """

    def seen(one: Pass) -> _Seen:
        watch = _Watch(model)
        with watch.calls(), FlopCounterMode(display=False) as counter:
            watch.counter = counter
            with ActivationMemory(one.inputs, a_bits, lambda: watch.stack[-1] if watch.stack else "") as memory:
                out = one.run()
        return _Seen(watch.flops, watch.shapes, memory.finish(out))

    with visible_attention():
        found = observed(model, example_inputs, seen)
    held = _held_by(model, found.shapes)
    modules = dict(model.named_modules())
    layers = tuple(
        LayerCost(
            name,
            type(modules[name]).__name__,
            shape,
            sum(tensor.numel() for tensor in held[name]),
            found.flops[name] // 2,
            sum(_bytes(tensor, w_bits) for tensor in held[name]),
            found.peaks.get(name, 0),
        )
        for name, shape in found.shapes.items()
        if held[name] or found.flops[name]
    )
    peak = max(found.peaks, key=lambda place: found.peaks[place])
    return Meter(
        layers,
        sum(layer.params for layer in layers),
        sum(layer.macs for layer in layers),
        sum(layer.weight_bytes for layer in layers),
        found.peaks[peak],
        peak,
    )


@dataclass(frozen=True)
class _Seen:
    """Of each module that was called: its own FLOPs, its output's shape, the memory while it worked."""

    flops: Mapping[str, int]
    shapes: Mapping[str, tuple[int, ...] | None]
    peaks: Mapping[str, int]


class _Watch:
    """Follows which module is at work, and whose the FLOPs are that a counter adds up."""

    def __init__(self, model: nn.Module) -> None:
        self.counter: FlopCounterMode | None = None
        self.stack: list[str] = []
        self.flops: dict[str, int] = defaultdict(int)
        self.shapes: dict[str, tuple[int, ...] | None] = {}
        self._names = {id(module): name for name, module in model.named_modules()}
        self._counted = 0

    @contextmanager
    def calls(self) -> Iterator[None]:
        """Hear of every call of one of the model's modules; the modules themselves are not touched."""
        handles = [register_module_forward_pre_hook(self._enter), register_module_forward_hook(self._leave)]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def _settle(self) -> None:
        """What was counted since the last change of place belongs to the module on top."""
        assert self.counter is not None
        total = int(self.counter.get_total_flops())
        if self.stack:
            self.flops[self.stack[-1]] += total - self._counted
        self._counted = total

    def _enter(self, module: nn.Module, _inputs: Any) -> None:
        name = self._names.get(id(module))
        if name is not None:
            self._settle()
            self.stack.append(name)
            self.shapes.setdefault(name, None)

    def _leave(self, module: nn.Module, _inputs: Any, out: Any) -> None:
        name = self._names.get(id(module))
        if name is not None:
            self._settle()
            self.stack.pop()
            self.shapes[name] = tuple(out.shape[1:]) if isinstance(out, Tensor) else None


def _held_by(model: nn.Module, called: Mapping[str, object]) -> dict[str, list[Tensor]]:
    """Each parameter once, at the module that holds it or the nearest around it that is called itself."""
    held: dict[str, list[Tensor]] = defaultdict(list)
    for name, tensor in stored_weights(model):
        place = name.rpartition(".")[0]
        while place and place not in called:
            place = place.rpartition(".")[0]
        held[place].append(tensor)
    return held


def _bytes(tensor: Tensor, w_bits: int | None) -> int:
    """Bytes of a parameter, rounded up."""
    if w_bits is None or not tensor.is_floating_point():
        return tensor.numel() * tensor.element_size()
    return -(-tensor.numel() * (w_bits if tensor.ndim > 1 else OTHER_BITS) // 8)
