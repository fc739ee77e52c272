"""TensorRT 10 and 11: symmetric int8 with zero point 0, float biases, explicit axes; ReLUs stay in the graph.

Its fusions look for Conv, ReLU, Q in this order, for a residual sum with Q/DQ on the skip input only, and for pools
behind DQ. What its parser refuses is told by the rules E1 to E8 of :mod:`mcomp.deploy.qdq`.
"""

from __future__ import annotations

from mcomp.deploy.profiles.base import Profile

TENSORRT = Profile(
    name="tensorrt",
    unsigned="never",
    levels=127,
    quantize_outputs="fusions",
    asymmetric=False,
    sixteen_bits=False,
    absorb_relu=False,
    clip_integers=False,
    integer_bias=False,
    pools_as_convolutions=False,
    four_bits=frozenset({"Gemm", "MatMul"}),
    two_bits=frozenset(),
    even_rows=True,
)
