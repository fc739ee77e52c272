"""Layers whose products are counted: convolutions and linear layers of binary weights and binary inputs."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from mcomp.deploy.xnor.extension import Chain, InstructionPath, Size
from mcomp.deploy.xnor.filters import LANES, BinaryFilters, by_lane, pack_filters, sums_from
from mcomp.deploy.xnor.geometry import Geometry
from mcomp.deploy.xnor.refusals import refuse_channels, refuse_small
from mcomp.deploy.xnor.sign_steps import SignPacking, SignStep
from mcomp.quantization.quantizers.binary import BinaryCodes
from mcomp.quantization.quantizers.xnor import XNORInputScale, scale_output


class XnorLayer(SignStep):
    """What the three share: filters as bits, one scale each, and an input that is packed into bits.

    The sums are exact. Each becomes ``float32(sum) * scale``, rounded once, plus the bias, rounded once more: the
    simulated layer computed without rounding on the way, whose own float32 sums differ from it in the last bits. So may
    signs: where what a following sign reads is 0 by exact sums, or nearer to it than the rounding of the simulated
    sums, the simulation may fall on the other side of 0, and the binary input of the next layer differs by a whole -1
    to +1. With no bias and no batch norm between, that is where as many products are +1 as are -1.
    A NaN in the input counts as a negative number.

    Args:
        layer: the quantised layer that this one computes.
        filters: its weight.
        codes: of its input.
        quantised: whether its input arrives in those codes; else it is compared with 0 here.
        path: which loops to take.

    Attributes:
        makes_signs: whether its input arrives before it is quantised.
        packing: of the input; None where it arrives in packed signs.
        signs_for: groups of the layer that reads packed signs from here; 0 where this one gives floats.
        channels_last: whether floats made of packed signs are ``channels_last``.
    """

    scale: Tensor
    bias: Tensor | None
    filters: Tensor
    taps: Tensor
    lane_scale: Tensor
    lane_bias: Tensor | None
    flip: Tensor | None
    threshold: Tensor | None
    packing: SignPacking | None
    input_scale: XNORInputScale | None

    def __init__(
        self, layer: Any, filters: BinaryFilters, codes: BinaryCodes, quantised: bool, path: InstructionPath = "auto"
    ) -> None:
        super().__init__(path)
        self.groups, self.products = filters.groups, filters.products
        self.outputs, self.inputs = filters.signs.shape[0], filters.signs.shape[1] * filters.groups
        self.geometry = Geometry.of(layer)
        self.codes, self.shift = codes, 0 if codes == "01" else 1
        self.makes_signs, self.signs_for, self.channels_last = not quantised, 0, False
        bias = getattr(layer, "bias", None)
        self.register_buffer("taps", filters.taps)
        self.register_buffer("filters", pack_filters(filters))
        self.register_buffer("scale", filters.scale)
        self.register_buffer("bias", None if bias is None else bias.detach().float().clone())
        self.register_buffer("lane_scale", by_lane(filters.scale, filters.groups))
        self.register_buffer("lane_bias", None if self.bias is None else by_lane(self.bias, filters.groups))
        self.register_buffer("threshold", None)
        self.register_buffer("flip", None)
        between = quantised and codes == "01"  # 0 is no border between these
        edges = torch.full((self.inputs,), 0.5) if between else None
        self.register_module("packing", SignPacking(self.inputs, self.groups, edges, path=path))
        self.register_module("input_scale", getattr(layer, "input_scale", None))

    @property
    def reads_floats(self) -> bool:
        """Whether it packs its input itself."""
        return self.packing is not None

    @property
    def float_channels(self) -> int:
        """Its inputs, where it packs them itself."""
        return 0 if self.packing is None else self.inputs

    def read_signs(self) -> None:
        """From now on read packed signs."""
        self.packing = None
        self.forget()

    def give_signs(self, threshold: Tensor, flip: Tensor, groups: int) -> None:
        """From now on return the signs of what follows the sums, packed for a reader of ``groups``.

        Args:
            threshold: int32 ``[outputs]``: the sum from which on the sign is +1,
            flip: bool ``[outputs]``: or -1, where this says so.
            groups: of the layer that reads them.
        """
        self.signs_for = groups
        lanes = by_lane(flip.to(torch.int32), self.groups).view(-1, LANES)
        self.flip = (lanes << torch.arange(LANES, dtype=torch.int32)).sum(1, dtype=torch.int32)
        self.threshold = by_lane(threshold.to(torch.int32), self.groups)
        self.forget()

    def add_to(self, chain: Chain, size: Size, channels_last: bool) -> Size:
        """Packing, where floats come in, and the convolution."""
        refuse_small(size, self.geometry.least())
        if self.packing is not None:
            self.packing.add_to(chain, size, channels_last)
        classes, base = sums_from(self.taps, self.products, self.groups, self.geometry, size, self.codes)
        filters, numbers = (self.filters, self.outputs, self.geometry.numbers()), (classes, base)
        if self.flip is not None and self.threshold is not None:
            limit = (base - self.threshold) >> self.shift  # of counts: base - (count << shift) >= threshold
            chain.convolve_to_signs(*filters, classes, limit, self.flip, self.signs_for)
        else:
            last = channels_last if self.packing is not None else self.channels_last
            bias = self.lane_bias if self.input_scale is None else None
            chain.convolve(*filters, *numbers, self.shift, self.lane_scale, bias, last)
        return self.geometry.output(size)

    def extra_repr(self) -> str:
        """Sizes, and what goes in and out."""
        reads = "signs" if self.packing is None else "floats"
        return f"{self.inputs}, {self.outputs}, reads {reads}, gives {'signs' if self.signs_for else 'floats'}"


class XnorConv2d(XnorLayer):
    """A binary two-dimensional convolution.

    Shape:
        ``(N, C, H, W)`` float32, or the packed signs of one; to ``(N, C', H', W')`` in the same memory format, or to
        packed signs.
    """

    _dims = 2

    def __init__(
        self, layer: Any, filters: BinaryFilters, codes: BinaryCodes, quantised: bool, path: InstructionPath = "auto"
    ) -> None:
        super().__init__(layer, filters, codes, quantised, path)
        self.padding_mode = str(layer.padding_mode)
        self.border = list(layer._reversed_padding_repeated_twice)

    def forward(self, x: Tensor) -> Tensor:
        """The convolution."""
        if self.packing is None:
            return self.run(x)
        if x.dim() == self._dims + 1:
            return self.forward(x[None])[0]
        wide = x if self.padding_mode == "zeros" else F.pad(x, self.border, mode=self.padding_mode)
        output = self.run(wide) if self._dims == 2 else self.run(wide[:, :, None])[:, :, 0]
        if self.input_scale is None:
            return output
        return scale_output(output, self.input_scale(x), self.bias, self._dims)


class XnorConv1d(XnorConv2d):
    """A binary one-dimensional convolution.

    Shape:
        ``(N, C, L)`` to ``(N, C', L')``, float32.
    """

    _dims = 1


class XnorLinear(XnorLayer):
    """A binary linear layer.

    Shape:
        ``(..., features)`` to ``(..., outputs)``, float32.
    """

    def forward(self, x: Tensor) -> Tensor:
        """The product."""
        refuse_channels(x.shape[-1] if x.dim() else 1, self.inputs)
        output = self.run(x.reshape(-1, self.inputs, 1, 1)).view(*x.shape[:-1], self.outputs)
        return output if self.input_scale is None else scale_output(output, self.input_scale(x), self.bias, 0)
