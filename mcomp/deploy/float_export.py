"""A float ONNX file by torch's own exporters: the TorchScript route first (12 times faster), then dynamo."""

from __future__ import annotations

import io
import logging
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import onnx
import torch
from onnx import numpy_helper
from torch import Tensor, nn

from mcomp.deploy.export_proof import prove_export, reference
from mcomp.deploy.marking import DOMAIN, Marker, Route
from mcomp.errors import StageError

#: The newest opset that the TorchScript route writes.
DEFAULT_OPSET = 20

#: Bytes of parameters above which the graph is exported without their values.
LARGEST_INSIDE = 2**31 - 2**27

#: Of ``torch._C``: turns the log of the TorchScript exporter on and off.
_SWITCH = "_jit_set_onnx_log_enabled"

Marked = TypeVar("Marked")


def export_float(
    prepare: Callable[[Route], tuple[nn.Module, Marked]], example_inputs: tuple[Tensor, ...], opset: int = DEFAULT_OPSET
) -> tuple[onnx.ModelProto, Marked]:
    """Export what ``prepare(route)`` returns, with a dynamic batch axis, by the first route that works.

    Inputs are called ``input`` (``input_1`` …), the output ``output``. ``prepare`` also returns what belongs to
    the model it made (its markers); that is handed back with the graph. A graph that does not compute what the
    model computes counts as failed.

    Raises:
        StageError: MC430, both exporters failed; the message shows both errors.
    """
    failures: dict[Route, Exception] = {}
    routes: dict[Route, Callable[[nn.Module, tuple[Tensor, ...], int], onnx.ModelProto]] = {
        "torchscript": _by_torchscript,
        "dynamo": _by_dynamo,
    }
    for route, export in routes.items():
        try:
            model, marked = prepare(route)
            with warnings.catch_warnings(), _no_graphs(), torch.no_grad():
                warnings.simplefilter("ignore")  # tracer and deprecation warnings about code that is not the user's
                proto = export(model.eval(), example_inputs, opset)
                # markers of the first route compute in torch what they stand for in the file: nothing
                simple = model if route == "torchscript" else prepare("torchscript")[0]
                prove_export(proto, reference(simple, example_inputs), example_inputs, simple)
                return proto, marked
        except StageError:
            raise
        except Exception as error:
            failures[route] = error
    raise StageError(
        "the network cannot be exported to ONNX by either exporter of torch",
        code="MC430",
        why="; ".join(f"{route}: {type(error).__name__}: {_first_line(error)}" for route, error in failures.items()),
        hint="replace the operation named there by one that ONNX has, or keep that part out of the network",
    ) from failures["torchscript"]


@contextmanager
def _no_graphs() -> Iterator[None]:
    """Keep the TorchScript exporter from printing its whole graph where it fails, for then the other route is tried.

    The C++ half prints it, past ``sys.stdout``; the Python half turns that log on, however it was set before.
    """
    switch = getattr(torch._C, _SWITCH, None)
    if switch is None:  # of another version of torch
        yield
        return
    switch(False)
    setattr(torch._C, _SWITCH, lambda _on: None)
    try:
        yield
    finally:
        setattr(torch._C, _SWITCH, switch)


def input_names(example_inputs: tuple[Tensor, ...]) -> list[str]:
    """What the inputs are called in the file."""
    return ["input", *[f"input_{index}" for index in range(1, len(example_inputs))]]


def _by_torchscript(model: nn.Module, example_inputs: tuple[Tensor, ...], opset: int) -> onnx.ModelProto:
    names = input_names(example_inputs)
    held = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    inside = sum(tensor.numel() * tensor.element_size() for tensor in held.values()) < LARGEST_INSIDE
    target: Any = io.BytesIO()  # accepted by this route, though not in its signature
    torch.onnx.export(
        model,
        example_inputs,
        target,
        dynamo=False,
        opset_version=opset,
        input_names=names,
        output_names=["output"],
        dynamic_axes={name: {0: "batch"} for name in [*names, "output"]},
        export_params=inside,
        custom_opsets={DOMAIN: 1} if any(isinstance(module, Marker) for module in model.modules()) else None,
    )
    proto = onnx.load_model_from_string(target.getvalue())
    if not inside:
        _add_small_values(proto, held)
    return proto


def _add_small_values(proto: onnx.ModelProto, held: dict[str, Tensor]) -> None:
    """Give a graph that was exported without values those that no marker stands for; the rest stay inputs.

    A message of protobuf ends at 2 GiB, which the integers of a network of that size are well below.
    """
    marked = {node.input[0] for node in proto.graph.node if node.domain == DOMAIN}
    for value in list(proto.graph.input):
        if value.name in held and value.name not in marked:
            array = held[value.name].detach().cpu().numpy()
            proto.graph.initializer.append(numpy_helper.from_array(array, value.name))
            proto.graph.input.remove(value)


def _by_dynamo(model: nn.Module, example_inputs: tuple[Tensor, ...], opset: int) -> onnx.ModelProto:
    batch = torch.export.Dim("batch")
    previous = logging.root.manager.disable
    logging.disable(logging.WARNING)  # the exporter narrates through logging, beside `verbose`
    try:
        program: Any = torch.onnx.export(
            model,
            example_inputs,
            dynamo=True,
            opset_version=opset,
            input_names=input_names(example_inputs),
            output_names=["output"],
            dynamic_shapes=tuple({0: batch} for _ in example_inputs),
            verbose=False,
        )
    finally:
        logging.disable(previous)
    proto: onnx.ModelProto = program.model_proto
    return proto


def _first_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0][:300] if lines else "no message"
