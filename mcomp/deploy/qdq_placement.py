"""Replace the markers of a float graph by Q/DQ nodes, placed as the target fuses them.

Quantising is monotone and works element by element, so it commutes with max pooling and with moving data about, as a
resize to the nearest element does.
A quantiser sits right behind the operation that makes its tensor, where the target can fuse it; behind each commuting
operation it is repeated, exactly (its grid is a fixed point), so that integers flow all the way to the next layer.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import onnx

from mcomp.deploy.activation_lowering import ActivationGrid, lower_activation
from mcomp.deploy.dynamic_placement import place_dynamic
from mcomp.deploy.dynamic_products import integer_products
from mcomp.deploy.float_beside_integers import note_requantised
from mcomp.deploy.integer_biases import integer_biases
from mcomp.deploy.integer_pooling import pools_as_convolutions
from mcomp.deploy.low_bit import narrowest, stored
from mcomp.deploy.lowering import Lowering, inexact_notes
from mcomp.deploy.marking import DOMAIN, MarkedModel
from mcomp.deploy.onnx_graph import OnnxGraph, attribute
from mcomp.deploy.operator_facts import clip_bounds, commutes, feeds_weights, non_negative, reads_integers
from mcomp.deploy.padded_channels import pad_input_channels
from mcomp.deploy.profiles.base import Profile
from mcomp.deploy.weight_lowering import WeightGrid, lower_weight


def lower_markers(
    graph: OnnxGraph,
    marked: MarkedModel,
    target: Profile | None,
    lowering: Lowering,
    *,
    half: bool = False,
    low_bit: bool = False,
) -> None:
    """Lower every marker of ``graph`` in place and fill the table; ``target`` None drops them (plain float).

    Args:
        graph: of the marked model.
        marked: its sites.
        target: the profile.
        lowering: the table.
        half: scales are to be half-precision numbers, and biases stay float.
        low_bit: weights of few bits are stored in as many.
    """
    markers = [node for node in graph.nodes if node.domain == DOMAIN]
    grids: dict[str, ActivationGrid] = {}
    weights: dict[str, WeightGrid] = {}
    for node in markers:
        name = attribute(node, "name")
        if target is None:
            _drop(graph, node)
        elif name in marked.weights:
            if name not in weights:
                weights[name] = lower_weight(marked.weights[name], target, half=half, widen=not low_bit)
                lowering.tensors.append(weights[name].row)
            kind = _place_weight(graph, node, weights[name], marked.weights[name].axis, target if low_bit else None)
            if kind != weights[name].row.dtype:
                narrow = replace(weights[name].row, dtype=kind)
                lowering.tensors[lowering.tensors.index(weights[name].row)] = narrow
                weights[name] = replace(weights[name], row=narrow)
        elif marked.activations[name].dynamic:
            place_dynamic(graph, node, marked.activations[name], target, lowering)
        else:
            if name not in grids:
                grids[name] = lower_activation(marked.activations[name], target, half=half)
                lowering.tensors.append(grids[name].row)
            _place_activation(graph, node, grids[name], target)
    if target is None and markers:
        lowering.notes.append("`float` keeps the values of quantised weights and drops activation quantisers")
    if target is not None and target.pools_as_convolutions:
        pools_as_convolutions(graph)
    if target is not None and target.even_inputs:
        pad_input_channels(graph)
    if target is not None and target.integer_bias and not half:
        integer_biases(graph, lowering)
        integer_products(graph)
    if target is not None:
        note_requantised(graph, target, lowering)
    rounded = [row.max_abs_error for row in lowering.tensors if row.kind == "bias" and not row.exact]
    if rounded:
        are = "1 bias is" if len(rounded) == 1 else f"{len(rounded)} biases are"
        lowering.notes.append(f"{are} int32 in accumulator units (max rounding {max(rounded):.1e})")
    lowering.notes += inexact_notes(lowering.tensors)


def _drop(graph: OnnxGraph, node: onnx.NodeProto) -> None:
    graph.redirect(node.output[0], node.input[0])
    graph.remove(node)


def _place_weight(
    graph: OnnxGraph, node: onnx.NodeProto, weight: WeightGrid, axis: int, packing: Profile | None
) -> str:
    """Store the integers and unpack them in the graph; the type they are stored in, for ``packing`` the narrowest."""
    name = weight.row.name
    if not weight.quantised:
        _drop(graph, node)
        return weight.row.dtype
    values, output, own = np.ascontiguousarray(np.moveaxis(weight.values, 0, axis)), node.output[0], axis
    readers = graph.consumers(output)
    if values.ndim == 2 and len(readers) == 1 and readers[0].op_type == "Transpose":
        values, axis, output = values.T, 1 - axis, readers[0].output[0]
        graph.remove(readers[0])
    graph.remove(node)
    kind = values.dtype.name
    if packing is not None and not weight.row.zero_point:
        readers = graph.consumers(output)
        beside_integers = any(reads_integers(graph, reader.input[0]) for reader in readers)
        kind = narrowest(values, [reader.op_type for reader in readers], packing, beside_integers=beside_integers)
    # a layer that is called several times has one set of integers; each call unpacks them
    zeros = np.full(len(weight.scale), weight.row.zero_point, values.dtype)
    inputs = [
        graph.shared(f"{name}_integers{'' if axis == own else '_transposed'}", stored(values, kind)),
        graph.shared(f"{name}_scale", weight.scale),
        graph.shared(f"{name}_zero_point", stored(zeros, kind)),
    ]
    unpacked = f"{graph.unique(name)}_dequantized"
    graph.add_node("DequantizeLinear", inputs, unpacked, axis=axis)
    graph.redirect(output, unpacked)
    return kind


def _place_activation(graph: OnnxGraph, node: onnx.NodeProto, grid: ActivationGrid, target: Profile) -> None:
    source = _before_relus(graph, node, grid, target)
    maker = graph.producer(source)
    parts = maker if maker is not None and maker.op_type == "Concat" and graph.read_once(source) else None
    in_parts = parts is not None and grid.dtype is not None and _quantise_parts(graph, parts, grid, target)
    dequantised = _quantise(graph, source, grid, target, first=not in_parts)
    graph.remove(node)
    graph.redirect(node.output[0], dequantised)
    if grid.dtype is not None:
        _repeat_behind(graph, dequantised, grid, target)


def _before_relus(
    graph: OnnxGraph, reader: onnx.NodeProto, grid: ActivationGrid, target: Profile, place: int = 0
) -> str:
    """Take the ReLUs out that the grid makes up for; the tensor that ``reader`` then reads in that place."""
    source: str = reader.input[place]
    while (maker := graph.producer(source)) is not None and graph.read_once(source):
        if not _absorbs(graph, maker, grid, target):
            break
        source = maker.input[0]
        reader.input[place] = source
        graph.remove(maker)
    return source


def _quantise_parts(graph: OnnxGraph, concat: onnx.NodeProto, grid: ActivationGrid, target: Profile) -> bool:
    """Quantise every part of a concatenation where it is made, all on the grid of the whole; True if that was all.

    So each part's layer meets its quantiser, and nothing is quantised twice on different grids. A part that is read
    elsewhere too, or has a grid of its own, stays as it is.
    """
    whole = True
    for place, part in enumerate(concat.input):
        maker = graph.producer(part)
        if maker is None or maker.op_type == "DequantizeLinear" or maker.domain == DOMAIN or not graph.read_once(part):
            whole = False
            continue
        source = _before_relus(graph, concat, grid, target, place)
        concat.input[place] = _quantise(graph, source, grid, target, first=True, name=f"{grid.row.name}.part{place}")
    return whole


def _repeat_behind(graph: OnnxGraph, dequantised: str, grid: ActivationGrid, target: Profile) -> None:
    """Quantise again behind every operation that commutes with it, up to the layers that read the tensor."""
    for reader in graph.consumers(dequantised):
        if not commutes(reader) or reader.input[0] != dequantised:
            continue
        for output in list(reader.output):
            if not feeds_weights(graph, output):
                continue
            behind = _quantise(graph, output, grid, target, first=False)
            quantiser = graph.producer(graph.producer(behind).input[0])  # type: ignore[union-attr]
            graph.redirect(output, behind, keep=quantiser)
            _repeat_behind(graph, behind, grid, target)


def _absorbs(graph: OnnxGraph, maker: onnx.NodeProto, grid: ActivationGrid, target: Profile) -> bool:
    """True if the quantiser's own saturation does what this ReLU (or ReLU6) does."""
    if not target.absorb_relu or grid.dtype is None or grid.low != grid.zero_point:
        return False
    if maker.op_type == "Relu":
        return True
    if maker.op_type != "Clip":
        return False
    low, high = clip_bounds(graph, maker)
    return low == 0 and np.rint(np.float32(high) / grid.scale) >= grid.high - grid.zero_point


def _quantise(
    graph: OnnxGraph, tensor: str, grid: ActivationGrid, target: Profile, first: bool, name: str | None = None
) -> str:
    """Put Q/DQ behind ``tensor`` and return the dequantised name; only the ``first`` of a chain has to clip."""
    name = graph.unique(name or grid.row.name)
    below, above = grid.clips()
    clip_integers = target.clip_integers and grid.dtype is not None and grid.dtype.itemsize == 1
    if first and (below or above) and not clip_integers:
        tensor = _clip_reals(graph, tensor, grid, name)
    if grid.dtype is None:
        return tensor
    scale = graph.shared(f"{grid.row.name}_scale", np.asarray(grid.scale, np.float32))
    zero_point = graph.shared(f"{grid.row.name}_zero_point", np.asarray(grid.zero_point, grid.dtype))
    current: str = graph.add_node("QuantizeLinear", [tensor, scale, zero_point], f"{name}_quantized").output[0]
    if first and (below or above) and clip_integers:
        limits = [
            graph.shared(f"{grid.row.name}_low", np.asarray(grid.low, grid.dtype)) if below else "",
            graph.shared(f"{grid.row.name}_high", np.asarray(grid.high, grid.dtype)) if above else "",
        ]
        current = graph.add_node("Clip", [current, *limits], f"{name}_clipped").output[0]
    graph.add_node("DequantizeLinear", [current, scale, zero_point], f"{name}_dequantized")
    return f"{name}_dequantized"


def _clip_reals(graph: OnnxGraph, tensor: str, grid: ActivationGrid, name: str) -> str:
    below, above = grid.clips()
    low, high = grid.bounds()
    if low == 0 and non_negative(graph, tensor):
        below = False
    if not above:
        if not below:
            return tensor
        if low == 0:
            graph.add_node("Relu", [tensor], f"{name}_clipped")
            return f"{name}_clipped"
    maker = graph.producer(tensor)
    if low == 0 and above and maker is not None and maker.op_type == "Relu" and graph.read_once(tensor):
        tensor, below = maker.input[0], True  # one Clip fuses with the convolution, a ReLU and a Clip may not
    limits = [
        graph.shared(f"{grid.row.name}_low", np.asarray(low, np.float32)) if below else "",
        graph.shared(f"{grid.row.name}_high", np.asarray(high, np.float32)) if above else "",
    ]
    graph.add_node("Clip", [tensor, *limits], f"{name}_clipped")
    return f"{name}_clipped"
