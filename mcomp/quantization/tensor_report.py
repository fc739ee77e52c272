"""What quantisation did to one tensor: how much is clipped, how much noise there is, and where the values fell."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from mcomp.quantization.grid_histogram import GridCounter, GridHistogram
from mcomp.quantization.integers import QParams, along
from mcomp.quantization.noise import Noise
from mcomp.quantization.quantizers.base import Quantizer

#: Of a weight most of whose values, zeros apart, are levels already.
_ROUNDED = (
    "it was on its grid before (learned rounding leaves it there): what that rounding cost is not in these figures"
)
#: Steps beyond an end that are rounding of the scale, and no clipping.
_SLACK = 1e-3


@dataclass(frozen=True)
class TensorReport:
    """One quantised weight or activation.

    Attributes:
        name: of the weight's layer or parameter, or of the activation's quantiser.
        kind: ``weight`` or ``activation``.
        layers: what computes with it.
        scheme: name of the family.
        bits: nominal.
        low: smallest value seen.
        high: largest value seen.
        grid_low: lower end of the grid; of all channels.
        grid_high: upper end.
        scale: the largest one.
        clipped: percent of the values beyond the ends of their grid; None for binary and ternary, which clip nothing.
        used: percent of the grid's levels that some value fell on.
        sqnr_db: of the tensor, signal to quantisation noise; None where there is no noise.
        histogram: before and after.
        note: what the figures leave out.
    """

    name: str
    kind: str
    layers: list[str]
    scheme: str
    bits: int
    low: float
    high: float
    grid_low: float
    grid_high: float
    scale: float
    clipped: float | None
    used: float
    sqnr_db: float | None
    histogram: GridHistogram
    note: str = ""


class TensorSums(Noise):
    """Sums over the batches of one tensor and of what its quantiser made of it; no tensor is kept."""

    def __init__(self) -> None:
        super().__init__()
        self.count = self.beyond = 0
        self.low, self.high = math.inf, -math.inf
        self.counter: GridCounter | None = None

    def see(self, before: Tensor, after: Tensor, grid: QParams, own_grids: bool = False) -> None:
        """Take in one batch's tensor, the quantised one, and the grid; ``own_grids`` where each batch has another."""
        before = before.detach().float()
        self.add(before, after.float())
        low, high = (float(end) for end in before.aminmax())
        self.low, self.high = min(self.low, low), max(self.high, high)
        self.count += before.numel()
        ends = (end.to(before.device) for end in _ends(grid, before.dim(), slack=_SLACK))
        self.beyond += int(((before < next(ends)) | (before > next(ends))).sum())
        if self.counter is None:
            self.counter = GridCounter(grid, own_grids)
        self.counter.update(before, after, grid)

    def report(self, name: str, kind: str, layers: list[str], quantizer: Quantizer) -> TensorReport:
        """The row."""
        assert self.counter is not None
        low, high = _ends(self.counter.grid, 1)
        grid = self.counter.grid
        return TensorReport(
            name=name,
            kind=kind,
            layers=layers,
            scheme=quantizer.scheme or type(quantizer).__name__.removesuffix("Activation").lower(),
            bits=quantizer.bits,
            low=self.low,
            high=self.high,
            grid_low=float(low.min()),
            grid_high=float(high.max()),
            scale=float(torch.as_tensor(self.counter.grid.scale).max()),
            clipped=None if quantizer.scheme == "wbwtab" else 100 * self.beyond / self.count,
            used=100 * self.counter.used / min(grid.qmax - grid.qmin + 1, 2**quantizer.bits),
            sqnr_db=self.db(),
            histogram=self.counter.histogram(),
        )


def weight_report(name: str, layer: str, quantizer: Quantizer, weight: Tensor) -> TensorReport:
    """The row of a weight, its output channels first."""
    sums = TensorSums()
    training = quantizer.training
    rounded = quantizer.eval()(weight)
    sums.see(weight, rounded, quantizer.qparams(weight))
    quantizer.train(training)
    row = sums.report(name, "weight", [layer], quantizer)
    lain = int(((weight == rounded) & (weight != 0)).sum())
    return replace(row, note=_ROUNDED) if 2 * lain > int(weight.count_nonzero()) else row


def _ends(grid: QParams, dims: int, slack: float = 0.0) -> tuple[Tensor, Tensor]:
    """Both ends of the grid and ``slack`` steps more, shaped to compare with a tensor of ``dims`` dimensions."""
    scale, zero = torch.as_tensor(grid.scale), torch.as_tensor(grid.zero_point)
    low, high = (grid.qmin - zero - slack) * scale, (grid.qmax - zero + slack) * scale
    if low.dim() and grid.axis is not None and dims > 1:
        low, high = along(low, dims, grid.axis), along(high, dims, grid.axis)
    return low, high
