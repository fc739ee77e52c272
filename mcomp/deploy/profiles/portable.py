"""Any runtime that knows ONNX 13: Q/DQ as the standard describes it, and nothing that counts on a fusion.

ReLUs and clips stay operators of their own and biases stay float, so a runtime without integer kernels computes the
simulated values too, in float.
"""

from __future__ import annotations

from mcomp.deploy.profiles.base import Profile

PORTABLE = Profile(
    name="portable",
    unsigned="as_simulated",
    levels=255,
    quantize_outputs="none",
    asymmetric=True,
    sixteen_bits=False,
    absorb_relu=False,
    clip_integers=False,
    integer_bias=False,
    pools_as_convolutions=False,
    four_bits=frozenset(),
    two_bits=frozenset(),
    opset=13,
)
