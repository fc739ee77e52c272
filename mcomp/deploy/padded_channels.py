"""Images of three channels as images of four: ONNX Runtime's integer convolution is slow for any other number.

It multiplies four bytes at a time, and for a row of weights that is no multiple of four it takes a path that needs up
to twice as long (measured in 1.31: the first layer of mobilenet_v2 at 224 pixels 500 us, with a fourth channel 280). A
channel that is the zero point everywhere, under weights of zero, changes no sum.
"""

from __future__ import annotations

import numpy as np
import onnx

from mcomp.deploy.onnx_graph import OnnxGraph, attribute

MULTIPLE = 4


def pad_input_channels(graph: OnnxGraph) -> int:
    """Round the channels of quantised inputs of the network up, in place, where one convolution reads them.

    Returns:
        How many convolutions there were.
    """
    return sum(_pad(graph, node) for node in list(graph.nodes) if node.op_type == "Conv")


def _pad(graph: OnnxGraph, conv: onnx.NodeProto) -> bool:
    read, unpacked = (graph.producer(name) for name in conv.input[:2])
    if read is None or unpacked is None or {read.op_type, unpacked.op_type} != {"DequantizeLinear"}:
        return False
    weight, zero = graph.array(unpacked.input[0]), graph.array(unpacked.input[2])
    if weight is None or zero is None or weight.dtype.itemsize != 1 or weight.dtype.name not in ("int8", "uint8"):
        return False
    missing = -weight.shape[1] % MULTIPLE
    ends_in_integers = [reader.op_type for reader in graph.consumers(conv.output[0])] == ["QuantizeLinear"]
    alone = graph.read_once(conv.input[0]) and graph.read_once(read.input[0])
    if not missing or attribute(conv, "group", 1) != 1 or not (ends_in_integers and alone and _of_input(graph, read)):
        return False
    name = graph.unique(f"{read.output[0].removesuffix('_dequantized')}_channels")
    pads = np.zeros(2 * weight.ndim, np.int64)
    pads[weight.ndim + 1] = missing  # behind the last channel
    inputs = [read.input[0], graph.add_initializer(f"{name}_added", pads), read.input[2]]
    read.input[0] = graph.add_node("Pad", inputs, name).output[0]
    filler = np.broadcast_to(zero.reshape(-1, *[1] * (weight.ndim - 1)), (len(weight), missing, *weight.shape[2:]))
    padded = np.concatenate([weight, filler.astype(weight.dtype)], axis=1)
    own = graph.add_initializer(f"{unpacked.input[0]}_padded", padded)
    integers = [own, *unpacked.input[1:]]
    conv.input[1] = graph.add_node(
        "DequantizeLinear", integers, f"{own}_dequantized", axis=attribute(unpacked, "axis", 1)
    ).output[0]
    return True


def _of_input(graph: OnnxGraph, read: onnx.NodeProto) -> bool:
    """Whether what is read are the integers of an input: elsewhere a layer's kernel ends in the quantiser."""
    maker = graph.producer(read.input[0])
    while maker is not None and maker.op_type in ("QuantizeLinear", "Clip"):
        if maker.input[0] in graph.inputs:
            return True
        maker = graph.producer(maker.input[0])
    return False
