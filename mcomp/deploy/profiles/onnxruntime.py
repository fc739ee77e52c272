"""ONNX Runtime on a CPU: uint8 activations, int8 weights, integers from the first quantiser to the last layer.

Its convolutions, sums and pools have integer kernels with an integer output only, and the fast ones take unsigned
activations; a ReLU between a layer and its quantiser, or a float tensor between two layers, costs both their kernels.
Of an INT2 weight beside integer activations it makes an integer kernel that it then finds to be invalid (seen in 1.31).
"""

from __future__ import annotations

from mcomp.deploy.profiles.base import Profile

ONNXRUNTIME = Profile(
    name="onnxruntime",
    unsigned="always",
    levels=255,
    quantize_outputs="all",
    asymmetric=True,
    sixteen_bits=True,
    absorb_relu=True,
    clip_integers=True,
    integer_bias=True,
    pools_as_convolutions=True,
    four_bits=frozenset({"Conv", "ConvTranspose", "Gemm", "MatMul", "Gather"}),
    two_bits=frozenset({"Conv", "ConvTranspose", "Gemm", "MatMul", "Gather"}),
    even_inputs=True,
)
