"""OpenVINO on a CPU: either sign of activation, with zero point 0 where the simulation has it.

Its transformations turn each Q/DQ pair back into one fake quantisation and fuse clips, ReLUs and float biases into the
kernel before it; integers between a quantiser and its dequantiser would be in their way.
"""

from __future__ import annotations

from mcomp.deploy.profiles.base import Profile

OPENVINO = Profile(
    name="openvino",
    unsigned="as_simulated",
    levels=255,
    quantize_outputs=True,
    asymmetric=True,
    sixteen_bits=False,
    absorb_relu=True,
    clip_integers=False,
    integer_bias=False,
    pools_as_convolutions=False,
    four_bits=frozenset({"Conv", "ConvTranspose", "Gemm", "MatMul"}),
    two_bits=frozenset(),
)
