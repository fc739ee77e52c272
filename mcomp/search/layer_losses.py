"""Measuring what each layer alone costs: its weight or its input at few bits, or some of its channels gone."""

from __future__ import annotations

import copy
import fnmatch
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from torch import Tensor, nn

from mcomp.errors import StageError
from mcomp.metrics.accuracy import Evaluation, evaluate_batches
from mcomp.pruning.repeated import RepeatedPruning
from mcomp.quantization import calibrate, quantize, reestimate_batch_norms
from mcomp.quantization.bypass import bypassed
from mcomp.quantization.config import OFF
from mcomp.quantization.quantizers.base import Quantizer
from mcomp.quantization.units import Unit, units
from mcomp.search.genes import KINDS, Kind
from mcomp.search.network import layers_of
from mcomp.search.sensitivity_map import Cell, LayerLoss, SensitivityMap

#: Told the map so far, the cell that was measured last, and how many of how many are done.
Progress = Callable[[SensitivityMap, Cell, int, int], None]


@dataclass(frozen=True)
class Samples:
    """What every network is measured on.

    Attributes:
        norms: training images, from which ranges and batch norm statistics are taken.
        held: images and labels held out of training.
        device: where all of them are.
    """

    norms: Sequence[Tensor]
    held: Sequence[tuple[Tensor, Tensor]]
    device: str = "cpu"


@dataclass(frozen=True)
class Values:
    """What every layer is tried at; nothing is measured of a kind without values.

    Attributes:
        w_bits: of a weight. a_bits: of what a layer reads. keep: shares of a group's channels that stay.
    """

    w_bits: Sequence[int] = (8, 4, 2)
    a_bits: Sequence[int] = (8, 4, 2)
    keep: Sequence[float] = (0.75, 0.5, 0.25)


def measure_sensitivity(
    model: nn.Module,
    example_inputs: tuple[Tensor, ...],
    samples: Samples,
    values: Values = Values(),
    *,
    pruning: RepeatedPruning | None = None,
    quantization: Mapping[str, Any] | None = None,
    ignore: Sequence[str] = (),
    begun: SensitivityMap | None = None,
    progress: Progress = lambda found, cell, done, total: None,
) -> SensitivityMap:
    """Change one layer at a time, leave the others in float and whole, and see how the loss rises.

    A weight or an input is rounded with a learned step size that starts from the least squared error, channels are
    cut physically. Batch norm statistics are measured anew each time, and in the untouched network too, so that what
    is left is the layer's own doing. An input that several layers read is rounded for all of them.

    Args:
        model: float and trained; unchanged.
        example_inputs: a batch that it accepts, on the CPU.
        samples: images.
        values: bits and shares.
        pruning: cuts of the model; None measures no ``keep``.
        quantization: options of :func:`mcomp.quantization.quantize` but bits; the scheme ``lsq`` when left out.
        ignore: names or patterns of layers to leave out.
        begun: a map that was interrupted, whose rows are not measured again.
        progress: called behind every cell; what it raises ends the measuring.

    Raises:
        StageError: MC487, a loss is no number; MC488, no layer can be changed; MC486, the network calls no layer.
    """
    measuring = _Measuring(model, example_inputs, samples, pruning, dict(quantization or {"scheme": "lsq"}))
    cells = measuring.cells(values, ignore)
    if not cells:
        raise StageError(
            "no layer is left to measure",
            code="MC488",
            why=f"`ignore` matches every layer: {', '.join(ignore)}" if ignore else "no values were given",
            hint="narrow `ignore`, or give `w_bits`, `a_bits` or `keep` values",
        )
    found = measuring.untouched() if begun is None else begun
    found = replace(found, rows=tuple(row for row in found.rows if row.cell in cells))
    known = {row.cell for row in found.rows}
    left = [cell for cell in cells if cell not in known]
    for done, (cell, row) in enumerate(zip(left, measuring.rows(left, found), strict=True), len(known) + 1):
        if row is not None:
            found = _with(found, row, cells)
        progress(found, cell, done, len(cells))
    if not found.rows:
        raise StageError(
            "no layer can be changed alone",
            code="MC488",
            why="none of those that were asked for is quantised or pruned",
            hint="see `mcomp help sensitivity`",
        )
    return found


def _with(found: SensitivityMap, row: LayerLoss, cells: Sequence[Cell]) -> SensitivityMap:
    place = {cell: index for index, cell in enumerate(_by_layer(cells))}
    rows = sorted((*found.rows, row), key=lambda each: place[each.cell])
    return replace(found, rows=tuple(rows))


def _by_layer(cells: Sequence[Cell]) -> list[Cell]:
    """Kind by kind and layer by layer; the sort is stable, so that values stay in the order that was asked for."""
    layers = {layer: place for place, (_, layer, _) in reversed(list(enumerate(cells)))}
    return sorted(cells, key=lambda cell: (KINDS.index(cell[0]), layers[cell[1]]))


@dataclass
class _Measuring:
    """Networks with one change, made as cheaply as they can be: one conversion serves all layers at its bits."""

    model: nn.Module
    example_inputs: tuple[Tensor, ...]
    samples: Samples
    pruning: RepeatedPruning | None
    quantization: dict[str, Any]
    has_norms: bool = field(init=False)

    def __post_init__(self) -> None:
        norms = (module for module in self.model.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm))
        self.has_norms = any(norm.running_mean is not None for norm in norms)

    def cells(self, values: Values, ignore: Sequence[str]) -> list[Cell]:
        """In the order of measuring: a conversion at a time."""
        layers = _left([layer.name for layer in layers_of(self.model, self.example_inputs)], ignore)
        cells: list[Cell] = [("w_bits", layer, bits) for bits in values.w_bits for layer in layers]
        cells += [("a_bits", layer, bits) for bits in values.a_bits for layer in layers]
        if self.pruning is not None:
            order = {name: place for place, name in enumerate(layers)}
            groups = sorted(_left(list(self.pruning.layers), ignore), key=lambda name: order.get(name, len(order)))
            cells += [("keep", group, share) for share in values.keep for group in groups]
        return cells

    def untouched(self) -> SensitivityMap:
        """The map without rows."""
        seen = self._evaluated(copy.deepcopy(self.model).to(self.samples.device), "the network as it came")
        return SensitivityMap(seen.loss, seen.top1, images=len(seen.labels))

    def rows(self, cells: Sequence[Cell], base: SensitivityMap) -> Iterator[LayerLoss | None]:
        """One row per cell; None for a layer that cannot be changed so."""
        converted: tuple[tuple[Kind, float], nn.Module, dict[str, Unit]] | None = None
        for kind, layer, value in cells:
            what = f"the network with `{layer}` at `{kind}: {value:g}`"
            if kind == "keep":
                assert self.pruning is not None
                cut = self.pruning.cut({layer: value}).to(self.samples.device)
                seen: Evaluation | None = self._evaluated(cut, what)
            else:
                if converted is None or converted[0] != (kind, value):
                    made = self._converted(kind, int(value))
                    converted = (kind, value), made, {unit.name: unit for unit in units(made)}
                alone = _quantizers(converted[2].get(layer), kind)
                with bypassed(converted[1], alone):
                    seen = self._evaluated(converted[1], what) if alone else None
            if seen is None:
                yield None
            else:
                yield LayerLoss(kind, layer, value, seen.loss - base.base_loss, base.base_top1 - seen.top1)

    def _converted(self, kind: Kind, bits: int) -> nn.Module:
        asked = {"w_bits": OFF, "a_bits": OFF, kind: bits}
        made = quantize(self.model, self.example_inputs, **{**self.quantization, **asked}).to(self.samples.device)
        calibrate(made, list(self.samples.norms[:1]))
        return made

    def _evaluated(self, network: nn.Module, what: str) -> Evaluation:
        """Loss and top-1 behind statistics that suit the network; no earlier ones play a part in them."""
        if self.has_norms:
            reestimate_batch_norms(network, list(self.samples.norms))
        seen = evaluate_batches(network, self.samples.held, device=self.samples.device)
        if not math.isfinite(seen.loss):
            raise StageError(
                f"the loss of {what} is {seen.loss}",
                code="MC487",
                hint="train the network first, or leave the layer out with `ignore`",
            )
        return seen


def _left(names: Sequence[str], ignore: Sequence[str]) -> list[str]:
    return [name for name in names if not any(fnmatch.fnmatchcase(name, pattern) for pattern in ignore)]


def _quantizers(unit: Unit | None, kind: Kind) -> list[Quantizer]:
    """Those at work on the layer's weights, or on what it reads."""
    if unit is None:
        return []
    all_of_kind = [each for _, each, _ in unit.weights] if kind == "w_bits" else unit.activations
    return [each for each in all_of_kind if each.bits != OFF]
