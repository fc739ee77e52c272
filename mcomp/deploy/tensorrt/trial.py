"""Build an engine, run it, and hold it against the model that it was made of."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from mcomp.deploy.tensorrt.build import build_engine
from mcomp.deploy.tensorrt.devices import Buffers, open_device
from mcomp.deploy.tensorrt.engine import Engine
from mcomp.deploy.tensorrt.info import EngineInfo
from mcomp.deploy.tensorrt.shapes import ShapeRange
from mcomp.deploy.verification import Verification, verify
from mcomp.metrics.timing import batch_of, latency

if TYPE_CHECKING:
    from mcomp.data import Split
    from mcomp.metrics import Latency


@dataclass(frozen=True)
class EngineTrial:
    """An engine that was built and ran.

    Attributes:
        info: of the engine, with the GPU it was verified on.
        latency: of one call at the usual shapes.
        verification: against the simulated model; None without images.
    """

    info: EngineInfo
    latency: Latency
    verification: Verification | None


def try_engine(
    onnx_path: Path,
    plan_path: Path,
    shapes: Mapping[str, ShapeRange],
    model: nn.Module,
    example_inputs: tuple[Tensor, ...],
    split: Split | None,
    *,
    buffers: Buffers = "torch",
    runs: int = 30,
    **options: Any,
) -> EngineTrial:
    """Build ``plan_path``, time it at the usual shapes, and run a split through it.

    Args:
        onnx_path: the file.
        plan_path: where the engine goes.
        shapes: of every input with a free dimension.
        model: what the file was made of.
        example_inputs: a batch that it accepts, one tensor per input.
        split: labelled images; None to compare nothing.
        buffers: ``torch`` or ``pycuda``.
        runs: timed calls.
        options: of :func:`build_engine`.

    Raises:
        BackendMissingError: MC611, what an engine needs is not here.
        StageError: MC437 to MC441, the engine cannot be built, loaded or run.
    """
    with closing(open_device(buffers)) as device:
        info = build_engine(onnx_path, plan_path, shapes, device=device, **options)
        with Engine(plan_path, onnx_path=onnx_path, device=device) as engine:
            usual = [shapes[name].opt[0] if name in shapes else 0 for name in engine.inputs]
            inputs = tuple(
                batch_of(tensor, size) if size else tensor for tensor, size in zip(example_inputs, usual, strict=True)
            )
            timed = latency(lambda: engine.run(*inputs), runs=runs, batch=max(usual[0], 1))
            seen = None
            if split is not None:
                batches = shapes.get(engine.inputs[0])
                low, high = (batches.min[0], batches.max[0]) if batches else (len(inputs[0]), len(inputs[0]))
                seen = verify(_filled(engine, low), model, split, batch_size=high)
                info = replace(info, verified_on=f"{info.gpu}, TensorRT {info.tensorrt}")
                info.write(plan_path)
    return EngineTrial(info, timed, seen)


def _filled(engine: Engine, smallest: int) -> Callable[[Tensor], Tensor]:
    """``engine`` for batches below its smallest too: the last one of a split is filled up, and cut again."""

    def call(images: Tensor) -> Tensor:
        short = max(0, smallest - len(images))
        filled = torch.cat([images, images[:1].expand(short, *images.shape[1:])])
        return engine.run(filled)[0][: len(images)]

    return call
