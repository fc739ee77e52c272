"""What layers read and make on a sample, for methods that compare a quantised layer with the float one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor, nn

from mcomp.quantization.calibration import run_batches
from mcomp.quantization.inputs import Batch
from mcomp.quantization.layers import QuantizedLayer

BatchNorm = nn.modules.batchnorm._BatchNorm
Seen = Callable[[Tensor, Tensor], None]


class _EnoughError(Exception):
    """Ends a forward pass early."""


def common_layers(quantised: nn.Module, original: nn.Module, batches: Sequence[Batch]) -> dict[str, int]:
    """Quantised layers that ``original`` has in float, in order of execution, and how often one pass calls each."""
    names = [name for name, module in quantised.named_modules() if isinstance(module, QuantizedLayer)]
    calls: dict[str, int] = {}

    def count(name: str) -> Any:
        def hook(*_: Any) -> None:
            calls[name] = calls.get(name, 0) + 1

        return hook

    present = dict(original.named_modules())
    handles = [present[name].register_forward_hook(count(name)) for name in names if name in present]
    try:
        run_batches(original, batches[:1])
    finally:
        for handle in handles:
            handle.remove()
    return calls


def watch_layer(model: nn.Module, name: str, batches: Sequence[Batch], seen: Seen, *, calls: int = 1) -> None:
    """Show ``seen`` every ``(input, output)`` of the layer ``name``; what comes behind it is not computed."""
    left = [calls]

    def hook(_module: nn.Module, args: tuple[Any, ...], output: Tensor) -> None:
        seen(args[0], output)
        left[0] -= 1
        if left[0] == 0:
            raise _EnoughError

    handle = model.get_submodule(name).register_forward_hook(hook)
    try:
        for batch in batches:
            left[0] = calls
            try:
                run_batches(model, [batch])
            except _EnoughError:
                continue
    finally:
        handle.remove()


def norms_behind(model: nn.Module, batches: Sequence[Batch]) -> dict[str, str]:
    """Layers whose output a batch norm reads directly, and that batch norm, both by name."""
    made: dict[int, str] = {}
    kept: list[Tensor] = []  # so that no identity is given twice
    found: dict[str, str] = {}
    names = {module: name for name, module in model.named_modules()}

    def output(module: nn.Module, _args: Any, result: Any) -> None:
        if isinstance(result, Tensor):
            made[id(result)] = names[module]
            kept.append(result)

    def read(module: nn.Module, args: tuple[Any, ...]) -> None:
        if args and id(args[0]) in made:
            found[made[id(args[0])]] = names[module]

    handles = [
        module.register_forward_pre_hook(read)
        if isinstance(module, BatchNorm)
        else module.register_forward_hook(output)
        for module in model.modules()
    ]
    try:
        run_batches(model, batches[:1])
    finally:
        for handle in handles:
            handle.remove()
    return found
