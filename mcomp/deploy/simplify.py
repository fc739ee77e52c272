"""Turn computed reshape targets into constants, so that integers can pass a channel shuffle or a flatten."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import numpy_helper, shape_inference

from mcomp.deploy.marking import DOMAIN


def fix_reshapes(proto: onnx.ModelProto) -> int:
    """Give every ``Reshape`` with at most one unknown output dimension a constant shape, in place.

    ``x.view(x.size(0), …)`` is exported as a chain of Shape, Gather and Concat that reads ``x`` a second time; a
    constant with -1 for the batch says the same. Returns how many were replaced.
    """
    shapes = _inferred(proto)
    count = 0
    for index, node in enumerate(proto.graph.node):
        if node.op_type != "Reshape" or node.output[0] not in shapes:
            continue
        dims = shapes[node.output[0]]
        if sum(size < 1 for size in dims) > 1:
            continue
        name = f"reshape_{index}.shape"
        proto.graph.initializer.append(numpy_helper.from_array(np.asarray(dims, np.int64), name))
        node.input[1] = name
        count += 1
    return count


def _inferred(proto: onnx.ModelProto) -> dict[str, list[int]]:
    """Tensor to its shape, -1 where it is not a number; markers count as the identity."""
    copy = onnx.ModelProto()
    copy.CopyFrom(proto)
    for node in copy.graph.node:
        if node.domain == DOMAIN:
            node.domain, node.op_type = "", "Identity"
            del node.attribute[:]
    found = shape_inference.infer_shapes(copy, data_prop=True).graph
    return {
        value.name: [dim.dim_value if dim.HasField("dim_value") else -1 for dim in value.type.tensor_type.shape.dim]
        for value in [*found.value_info, *found.output]
        if value.type.tensor_type.HasField("shape")
    }
