"""Adaptive pools as ordinary ones: ONNX has no adaptive pooling, torch's exporter only takes the divisible sizes."""

from __future__ import annotations

import itertools
from typing import Any

import torch
from torch import Tensor, nn

from mcomp.metrics.accuracy import in_eval_mode


def equal_pools(model: nn.Module, example_inputs: tuple[Tensor, ...]) -> dict[str, nn.Module]:
    """For each adaptive average pool that the exporter would refuse: the pool that averages the very same windows.

    A pool is left out where there is none (windows of several sizes, as from 8 to 3) or where it sees several sizes.

    Args:
        model: run once on the inputs; not changed.
        example_inputs: of the size that is exported; only the batch axis is free in the file.

    Returns:
        Name to ``AvgPool2d``.
    """
    seen: dict[str, set[tuple[int, int]]] = {}
    handles = [
        module.register_forward_pre_hook(_sizes_into(seen.setdefault(name, set())))
        for name, module in model.named_modules()
        if isinstance(module, nn.AdaptiveAvgPool2d)
    ]
    if not handles:
        return {}
    try:
        with in_eval_mode(model), torch.no_grad():
            model(*example_inputs)
    finally:
        for handle in handles:
            handle.remove()
    found: dict[str, nn.Module] = {}
    for name, sizes in seen.items():
        if len(sizes) != 1:
            continue
        size = sizes.pop()
        wanted: Any = model.get_submodule(name).output_size
        outputs = wanted if isinstance(wanted, (tuple, list)) else (wanted, wanted)
        windows = [window(*pair) for pair in zip(size, outputs, strict=True)]
        divisible = all(out is not None and side % out == 0 for side, out in zip(size, outputs, strict=True))
        if not divisible and windows[0] is not None and windows[1] is not None:
            (height, down), (width, right) = windows[0], windows[1]
            found[name] = nn.AvgPool2d((height, width), (down, right))
    return found


def window(size: int, output: int | None) -> tuple[int, int] | None:
    """Kernel and stride that average what an adaptive pool from ``size`` to ``output`` averages; None if there is none.

    The adaptive pool's window ``i`` reaches from ``floor(i * size / output)`` to ``ceil((i + 1) * size / output)``. For
    two outputs the answer is ``ceil(size / 2), floor(size / 2)``. No ``output`` means as many as ``size``.
    """
    count = size if output is None else output
    starts = [index * size // count for index in range(count)]
    lengths = {-(-(index + 1) * size // count) - start for index, start in enumerate(starts)}
    strides = {after - before for before, after in itertools.pairwise(starts)}
    if len(lengths) != 1 or len(strides) > 1:
        return None
    kernel, stride = lengths.pop(), strides.pop() if strides else size
    covered = (size - kernel) // stride + 1 if stride and kernel <= size else 0
    return (kernel, stride) if covered == count else None


def _sizes_into(found: set[tuple[int, int]]) -> Any:
    def note(_module: nn.Module, args: tuple[Tensor, ...]) -> None:
        found.add((args[0].shape[-2], args[0].shape[-1]))

    return note
