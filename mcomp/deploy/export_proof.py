"""What an exporter wrote computes what the network computes, or it is not used.

Exporters drop what they do not understand now and then, in silence. Before anything is quantised, the float graph is
run beside the network; there no rounding can hide a fault, nor look like one. A network that blows up the rounding of
float32 itself (hundreds of layers with untrained weights) is held to what a last bit of its weights does to it.
"""

from __future__ import annotations

import copy
from typing import Any

import onnx
import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from mcomp.deploy.marking import DOMAIN

#: Largest accepted ``max|exported - network| / max|network|``: of float32 sums in another order.
TOLERANCE = 1e-3
#: Beyond it: the largest multiple of what a change of the weights' last bit does to the network.
_TIMES_ROUNDING = 10.0
#: An error that no rounding excuses.
_NO_LIKENESS = 0.1
#: A message of protobuf holds less than 2 GiB.
LARGEST_MESSAGE = 2**31


class OtherFunctionError(Exception):
    """The exported graph runs, but does not compute what the network computes."""


def reference(model: nn.Module, example_inputs: tuple[Tensor, ...]) -> list[Tensor]:
    """What the network returns, in eval mode: every tensor of it."""
    with torch.no_grad():
        return [each for each in tree_leaves(model.eval()(*example_inputs)) if isinstance(each, Tensor)]


def prove_export(
    proto: onnx.ModelProto, expected: list[Tensor], example_inputs: tuple[Tensor, ...], model: nn.Module
) -> None:
    """Run the exported graph in ONNX Runtime, its markers doing nothing, and compare.

    A graph beyond 2 GiB is not run, nor one whose outputs are not those of the network in number.

    Args:
        proto: the graph.
        expected: what the network returns.
        example_inputs: for both.
        model: whose parameters the graph takes as inputs by their names, where it holds no values.

    Raises:
        OtherFunctionError: the outputs differ.
    """
    if proto.ByteSize() >= LARGEST_MESSAGE or len(proto.graph.output) != len(expected):
        return
    plain = onnx.ModelProto()
    plain.CopyFrom(proto)
    for node in plain.graph.node:
        if node.domain == DOMAIN:
            node.domain, node.op_type = "", "Identity"
            del node.attribute[:]
    found = _run(plain.SerializeToString(), example_inputs, model)
    error = _relative_error(expected, [torch.as_tensor(each) for each in found])
    if error <= TOLERANCE or error <= min(_TIMES_ROUNDING * _rounding(model, example_inputs), _NO_LIKENESS):
        return
    raise OtherFunctionError(f"the exported graph computes something else (relative error {error:.1e})")


def _relative_error(expected: list[Tensor], found: list[Tensor]) -> float:
    """The largest difference of an output by the largest magnitude in it; outputs that are not finite do not count."""
    worst = 0.0
    for own, other in zip(expected, found, strict=True):
        if not own.is_floating_point() or not bool(torch.isfinite(own).all()) or not own.numel():
            continue
        if own.shape != other.shape:
            return float("inf")
        scale = float(own.double().abs().max()) or 1.0
        error = float((own.double() - other.double()).abs().max()) / scale
        worst = error if not error <= worst else worst  # so that nan counts
    return worst


def _rounding(model: nn.Module, example_inputs: tuple[Tensor, ...]) -> float:
    """The relative error of the network whose weights differ by their last bit, half of them up and half down."""
    shaken = copy.deepcopy(model)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in shaken.parameters():
            if parameter.is_floating_point():
                up = torch.rand(parameter.shape, generator=generator) < 0.5
                step = torch.where(up, 1.0, -1.0) * torch.finfo(parameter.dtype).eps
                parameter.mul_(1 + step.to(parameter.device, parameter.dtype))
    return _relative_error(reference(model, example_inputs), reference(shaken, example_inputs))


def _run(graph: bytes, example_inputs: tuple[Tensor, ...], model: nn.Module) -> list[Any]:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = max(1, torch.get_num_threads())
    options.log_severity_level = 4
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
    names = [value.name for value in session.get_inputs()]
    held = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    given = [name for name in names if name not in held]
    tensors = {**dict(zip(given, example_inputs, strict=False)), **{name: held[name] for name in names if name in held}}
    outputs: list[Any] = session.run(None, {name: each.detach().cpu().numpy() for name, each in tensors.items()})
    return outputs
