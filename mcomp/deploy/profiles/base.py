"""What a runtime takes, as one record."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Profile:
    """What one runtime takes, and how its kernels want it.

    Attributes:
        name: as given to :func:`mcomp.deploy.to_onnx`.
        unsigned: of activations: ``always`` uint8 (signed ones shifted by 128), ``never`` (int8 with zero point 0), or
            ``as_simulated``: uint8 where nothing is negative, else int8.
        levels: the largest level of a non-negative 8-bit activation that a post-training grid should have.
        quantize_outputs: which of the tensors that layers make need a grid too: ``all`` where kernels end in integers,
            ``fusions`` where sums fuse with one convolution and pools and resizes read integers; see
            :mod:`mcomp.quantization.outputs`.
        asymmetric: zero points other than 0 are taken.
        sixteen_bits: grids of 9 to 16 bits may be kept as int16; else they stay float.
        absorb_relu: a ReLU in front of an unsigned quantiser is left to its saturation.
        clip_integers: a range narrower than the integer type is clipped after quantising, so that a convolution
            still meets its quantiser; else before, where it fuses like a ReLU6.
        integer_bias: biases are int32 in units of input scale times weight scale; else float.
        pools_as_convolutions: average pools of integers are written as depthwise convolutions.
        four_bits: layers (ONNX names) whose weights may be stored as INT4.
        two_bits: likewise as INT2, where they read a float tensor.
        even_inputs: images are given a multiple of four channels.
        even_rows: such weights need an even last dimension.
        opset: written where nobody asks for another.
    """

    name: str
    unsigned: Literal["always", "as_simulated", "never"]
    levels: int
    quantize_outputs: Literal["all", "fusions", "none"]
    asymmetric: bool
    sixteen_bits: bool
    absorb_relu: bool
    clip_integers: bool
    integer_bias: bool
    pools_as_convolutions: bool
    four_bits: frozenset[str]
    two_bits: frozenset[str]
    even_inputs: bool = False
    even_rows: bool = False
    opset: int = 20
