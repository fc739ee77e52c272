"""Quantise what layers make, too, for engines whose integer kernels end in integers.

:func:`mcomp.quantization.quantize` gives a grid to every tensor that a layer *reads*; the input of a residual sum, the
sum itself or what a mean makes stay float, as TensorRT fuses them. The integer convolutions and sums of ONNX Runtime
write integers only: one float tensor between them costs the kernel of the layer that makes it.
"""

from __future__ import annotations

import copy

from torch import fx, nn

from mcomp import surgery
from mcomp.quantization.output_sites import fusion_sites, kernel_sites
from mcomp.quantization.quantizers.affine import AffineQuantizer
from mcomp.quantization.quantizers.base import Quantizer
from mcomp.quantization.quantizers.lsq import LSQuantizer
from mcomp.quantization.tracing import TracedModel, trace


def quantize_outputs(model: nn.Module, bits: int = 8, *, for_fusion: bool = False) -> tuple[nn.Module, list[str]]:
    """A copy of a quantised model in which convolutions, sums, products and means of integers end in integers.

    Each tensor gets an unsigned affine grid behind the ReLU, if one follows; its range is not known yet: run
    :func:`mcomp.quantization.calibrate`. A mean that only makes the network's output stays float, as do the outputs of
    linear layers, which integer kernels write in float.

    TensorRT fuses: it adds a residual to the sums of a convolution, in place, and of two convolutions in one sum only
    the other one has to write integers; a layer before an average pool or a resize writes what is read there. With
    ``for_fusion`` those tensors alone get a grid, symmetric: outputs of convolutions on the shorter way into a sum of
    two, and what average pools and resizes read of integer layers.

    Args:
        model: quantised, its batch norms folded (one that stays keeps its layer's output float); not changed.
        bits: of each new grid.
        for_fusion: only what an engine that fuses layers lacks, on symmetric grids.

    Returns:
        The model and the names of the new quantisers, in the order of execution.

    Raises:
        StageError: MC420, the model has no graph.
    """
    made = trace(copy.deepcopy(model)).train(model.training)
    assert isinstance(made, TracedModel)
    surgery.inherit(made, model)
    sites = [(node, False) for node in fusion_sites(made)] if for_fusion else kernel_sites(made)
    names = _insert(made, sites, bits, symmetric=for_fusion)
    if sites:
        places = [[node.name, known] for node, known in sites]
        surgery.record(made, "quantize_outputs", bits=bits, sites=places, symmetric=for_fusion)
    return made, names


def quantize_outputs_again(model: nn.Module, entry: surgery.Entry) -> nn.Module:
    """Repeat a recorded :func:`quantize_outputs` on a model of the same structure."""
    made = trace(model)
    nodes = {node.name: node for node in made.graph.nodes}
    sites = [(nodes[name], nonnegative) for name, nonnegative in entry["sites"]]
    _insert(made, sites, entry["bits"], symmetric=entry["symmetric"])
    surgery.inherit(made, model)
    surgery.record(made, **entry)
    return made


def _insert(model: TracedModel, sites: list[tuple[fx.Node, bool]], bits: int, *, symmetric: bool) -> list[str]:
    names = []
    for node, nonnegative in sites:
        path = f"activation_quantizers.{node.name}"
        quantizer = _symmetric(bits) if symmetric else _unsigned(bits, nonnegative)
        quantizer.name = path
        device = next((tensor.device for tensor in [*model.parameters(), *model.buffers()]), None)
        model.add_submodule(path, quantizer.to(device).train(model.training))
        with model.graph.inserting_after(node):
            quantised = model.graph.call_module(path, (node,))
        for reader in [each for each in node.users if each is not quantised]:
            reader.replace_input_with(node, quantised)
        names.append(path)
    model.graph.lint()
    model.recompile()
    return names


def _unsigned(bits: int, nonnegative: bool) -> Quantizer:
    return AffineQuantizer(bits, symmetric=nonnegative, observer="minmax", signed=False, nonnegative_input=nonnegative)


def _symmetric(bits: int) -> Quantizer:
    return LSQuantizer(bits, True)  # whose grid is all of the integer type: nothing is left to clip
